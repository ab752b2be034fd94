"""A second device that computes: its tensors are boxes around CPU tensors, apart from the CPU's as a GPU's are.

Operations that mix its tensors with those of the CPU raise, as on a GPU (which also accepts single numbers). Everything
else gives the CPU's bytes, so that a run on it must equal one on the CPU. Waits of the CPU for the device are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "second"
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
WAITS = (  # the CPU needs numbers of the device, or their count
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
)


class Mixed(RuntimeError):
    """An operation on tensors of both devices."""


class Box(torch.Tensor):
    """A tensor of the second device."""

    inside: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inside: Tensor) -> Box:
        shape = {"strides": inside.stride(), "storage_offset": inside.storage_offset()}
        box: Box = torch.Tensor._make_wrapper_subclass(
            cls, inside.shape, **shape, dtype=inside.dtype, device=torch.device(NAME, 0)
        )
        box.inside = inside
        return box

    def __init__(self, inside: Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While it is active, `second` is a device of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.watch: Callable[[], bool] = lambda: True  # whether to count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.watch() and _waits(func, args, kwargs or {}):
            self.waits[str(func)] += 1
        return _compute(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[Device]:
    """Register the device and activate it."""
    _register()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes a CPU tensor and copies it
    try:
        with Device() as device, torch.autograd.set_multithreading_enabled(False):  # it may be registered too late
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


@cache
def _register() -> None:
    class Module(_DummyBackendModule):  # type: ignore[misc]
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    boxed = [isinstance(x, Box) for x in _tensors((args, kwargs))]
    wanted = kwargs.get("device")
    there = any(boxed) if wanted is None else torch.device(wanted).type == NAME
    if func is aten._pin_memory.default:
        return args[0]
    if func is aten.is_pinned.default:
        return False
    if any(boxed) and func not in MOVES:
        for x in _tensors((args, kwargs)):
            if not isinstance(x, Box) and x.ndim > 0:
                raise Mixed(f"{func} mixes both devices: {tuple(x.shape)} on the CPU")
    if func is aten.copy_.default:
        there = isinstance(args[0], Box)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain = tree_map(lambda x: x.inside if isinstance(x, Box) else x, (args, kwargs))
    out = func(*plain_args, **plain)
    if not there:
        return out
    boxes = Box(out) if isinstance(out, Tensor) else tree_map(lambda x: Box(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, boxes) if _aliases(func) else boxes


@cache
def _aliases(func: Any) -> bool:
    """Whether a result shares memory with an argument."""
    return any(result.alias_info is not None for result in func._schema.returns)


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a real device would have to be waited for, or would be by an ordinary copy."""
    first = next(iter(_tensors(args)), None)
    if func is aten._to_copy.default:
        target = kwargs.get("device")
        moved = target is not None and (torch.device(target).type == NAME) != isinstance(first, Box)
        return moved and not kwargs.get("non_blocking", False)
    if func is aten.copy_.default:
        return isinstance(args[0], Box) != isinstance(args[1], Box) and not (len(args) > 2 and args[2])
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default):
        return isinstance(first, Box) and any(x.dtype == torch.bool for x in _tensors(args[1]))
    return func in WAITS and isinstance(first, Box)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
