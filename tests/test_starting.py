"""Engines start without torch's compiler, and whoever calls what it decorates has it all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lorarlhf.starting import compiling_later

ENGINE = """
import sys, torch
from lorarlhf.starting import compiling_later
before = torch.compile
with compiling_later():
    import lorarlhf.engine.core
assert torch.compile is before
assert "bitsandbytes" in sys.modules
assert "torch._inductor.compile_fx" not in sys.modules
"""


def test_an_engine_is_imported_without_the_compiler():
    done = subprocess.run([sys.executable, "-c", ENGINE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_was_decorated_meanwhile_is_compiled_once_when_it_is_called(monkeypatch):
    compiled = []

    def compile_now(function, **options):
        compiled.append((function.__name__, options))
        return lambda *args: ("compiled", *function(*args))

    monkeypatch.setattr(torch, "compile", compile_now)
    with compiling_later():

        @torch.compile
        def plain(x):
            return (x,)

        @torch.compile(dynamic=False)
        def chosen(x):
            return (x, x)

        with pytest.raises(RuntimeError), compiling_later():
            raise RuntimeError
    assert torch.compile is compile_now
    assert compiled == []
    assert [plain(1), plain(2), chosen(3)] == [("compiled", 1), ("compiled", 2), ("compiled", 3, 3)]
    assert compiled == [("plain", {}), ("chosen", {"dynamic": False})]
