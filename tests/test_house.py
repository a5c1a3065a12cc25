"""The rules of the house: style, types, who may know whom, length, and that the documents tell the truth."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lorarlhf.reference import commands, reference

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("lorarlhf", "ui", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES, FUNCTION_LINES, LOOP_LINES = 500, 80, 120
LOOPS = {"lorarlhf/train/loop.py"}
"""Where a training loop stands, which may be longer because it reads as the algorithm."""
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "gradio", "numpy"}


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("command", [["check", "."], ["format", "--check", "."]], ids=["check", "format"])
def test_ruff_has_nothing_to_say(command: list[str]) -> None:
    done = run("-m", "ruff", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_has_nothing_to_say(tmp_path: Path) -> None:
    """As installed, with `ui` inside: beside it mypy finds no `lorarlhf.ui`, and takes all it imports for anything."""
    package, config, cache = tmp_path / "lorarlhf", ROOT / "pyproject.toml", str(ROOT / ".mypy_cache")
    package.mkdir()
    for path in (*(ROOT / "lorarlhf").iterdir(), ROOT / "ui"):
        (package / path.name).symlink_to(path)
    done = run("-m", "mypy", "-p", "lorarlhf", "--config-file", str(config), "--cache-dir", cache, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"no issues found in (\d+)", done.stdout)[1]) > 200, done.stdout


def test_every_package_knows_only_what_it_may() -> None:
    done = run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_the_maths_know_torch_and_nothing_else() -> None:
    files = sorted((ROOT / "lorarlhf/algo").glob("*.py"))
    assert len(files) > 3
    for path in files:
        strange = {
            name
            for name in imported(ast.parse(path.read_text()))
            if name.split(".")[0] not in {"torch", *sys.stdlib_module_names} and not name.startswith("lorarlhf.algo")
        }
        assert not strange, path


def test_files_and_functions_stay_within_the_budget() -> None:
    assert len(SOURCES) > 50
    too_long = []
    for path in SOURCES:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > FILE_LINES:
            too_long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > (LOOP_LINES if name in LOOPS else FUNCTION_LINES):
                    too_long.append(f"{name}:{node.lineno} {node.name}: {lines} lines")
    assert not too_long


def swallows(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler catches everything and does nothing about it."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    everything = any(k is None or (isinstance(k, ast.Name) and k.id in ("Exception", "BaseException")) for k in kinds)
    idle = all(
        isinstance(step, ast.Pass | ast.Continue)
        or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        for step in handler.body
    )
    return everything and idle


def test_no_error_is_swallowed() -> None:
    for path in SOURCES:
        handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
        assert not [handler.lineno for handler in handlers if swallows(handler)], path


LOADED = """
import json, sys
import lorarlhf
first = set(sys.modules)
from lorarlhf import cli
sys.argv = ["lorarlhf", "--help"]
try:
    cli.main()
except SystemExit as done:
    assert not done.code
print(json.dumps([sorted(first), sorted(sys.modules)]))
"""


def test_importing_the_package_and_asking_for_help_load_nothing_heavy() -> None:
    done = run("-c", LOADED)
    assert done.returncode == 0, done.stderr
    bare, helped = json.loads(done.stdout.splitlines()[-1])
    assert not HEAVY & set(bare)
    assert not HEAVY & set(helped)
    assert "lorarlhf.settings" in helped


def test_every_command_is_in_the_readme_and_the_reference() -> None:
    names = [name for name, _ in commands()]
    assert len(names) > 10
    readme, settings = (ROOT / "README.md").read_text(), (ROOT / "presets/SETTINGS.md").read_text()
    assert not [name for name in names if name not in readme]
    assert not [name for name in names if f"### `{name}" not in settings]


def test_the_reference_is_up_to_date() -> None:
    made = "run `python -m lorarlhf.reference > presets/SETTINGS.md`"
    assert (ROOT / "presets/SETTINGS.md").read_text(encoding="utf-8") == reference(), made


def test_the_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    for command in ('pip install "torch<2.14"', 'pip install -e ".[test]"', "python -m pytest"):
        assert command in script
        assert command in (ROOT / "README.md").read_text()
