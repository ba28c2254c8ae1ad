"""Looking into a network while it runs, from several threads at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def watching(module: nn.Module, hook: Callable[..., Any], *, before: bool = False) -> Iterator[None]:
    """Call a hook for the passes of this thread only.

    PyTorch's hooks belong to the module: when threads share a network, each would see the other's images.

    Parameters
    ----------
    module : torch.nn.Module
        Part of the network.
    hook : callable
        ``hook(module, inputs, output)``; with ``before``, ``hook(module, inputs)``. What it returns replaces the output
        (or inputs) unless it is None.
    before : bool
        Call it before the module runs, not after.
    """
    owner = threading.get_ident()

    def of_this_thread(*found: Any) -> Any:
        return hook(*found) if threading.get_ident() == owner else None

    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(of_this_thread)
    try:
        yield
    finally:
        handle.remove()
