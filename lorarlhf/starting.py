"""What makes processes start sooner: imports that bring more than is used are cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


@contextmanager
def compiling_later() -> Iterator[None]:
    """Let `torch.compile` begin at the first call of what it decorates, and not where that is imported.

    bitsandbytes decorates four functions, whose places kernels of its own take on cards and processors; for them alone
    every start would read the whole of torch's compiler: 550 modules, a fifth of the time.
    """
    import torch as whole

    torch: Any = whole
    at_once = torch.compile

    def later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda decorated: later(decorated, **options)
        compiled: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not compiled:
                compiled.append(at_once(function, **options))
            return compiled[0](*args, **kwargs)

        return call

    torch.compile = later
    try:
        yield
    finally:
        torch.compile = at_once
