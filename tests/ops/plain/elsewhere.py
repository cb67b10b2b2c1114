"""Tensors that claim to lie on a device that this machine lacks: "cuda:0" or "mps:0".

Their numbers are on the CPU, and so is all that is computed with them, so results are right. What
is checked is what only such a device would: that the tensors of a call lie together, that nobody
makes a type there that it has not, and, while a step runs, that nothing waits for the device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
_NAME = torch.device("meta")  # what torch calls it: every build of it has that one
_MOVES = ("to", "_to_copy", "copy_", "copy")
_ASKS = ("item", "_local_scalar_dense", "is_nonzero", "equal", "allclose")
_SIZES = ("nonzero", "masked_select", "unique", "_unique", "bincount", "argwhere")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
_TOO_WIDE = (torch.float64, torch.complex128)  # for Apple's GPU


class Elsewhere(Tensor):
    """A tensor that says it is on that device; `numbers` is the one that is here."""

    numbers: Tensor
    mode: "Device"

    @staticmethod
    def __new__(cls, numbers: Tensor, mode: "Device") -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=_NAME,
        )
        made.numbers, made.mode = numbers, mode
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.mode.device

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """In other threads, which modes do not reach."""
        given = tree_leaves((args, kwargs))
        mode = next(part.mode for part in given if isinstance(part, Elsewhere))
        return mode.__torch_dispatch__(func, types, args, kwargs)


class Device(TorchDispatchMode):
    """What a device of that kind would say to each call."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.hurried = False  # a step runs: nothing may wait
        self.calls = 0
        self._pinned: list[Tensor] = []  # kept, so that their addresses stay theirs

    @contextmanager
    def step(self) -> Iterator[None]:
        """Fails where the host waits for the device."""
        self.hurried = True
        try:
            yield
        finally:
            self.hurried = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        args, kwargs = list(args), dict(kwargs or {})
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        name = func.overloadpacket.__name__
        asked = self._asked(func, args, kwargs)
        here = asked or self._common(name, given)
        if self.hurried and any(isinstance(part, Elsewhere) for part in given):
            _waits_for_nothing(name, func, args, kwargs)
        if name in _MOVES:
            self._moves(name, args, kwargs, here)
        pins = bool(kwargs.pop("pin_memory", False))
        own = {id(part.numbers): part for part in given if isinstance(part, Elsewhere)}
        if name in ("to", "_to_copy") and given[0].device != here:
            real = _real(args[0]).clone(memory_format=torch.preserve_format)
            result = func(real, *map(_real, args[1:]), **tree_map(_real, kwargs))
            own = {}
        else:
            result = func(*tree_map(_real, args), **tree_map(_real, kwargs))
        if pins:
            self._pinned.append(result)
        return tree_map(lambda part: self._placed(part, here, own), result)

    def _asked(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> torch.device | None:
        """The device that a call names, which becomes the CPU."""
        names = [argument.name for argument in func._schema.arguments]
        if "device" not in names:
            return None
        at = names.index("device")
        named = args[at] if at < len(args) else kwargs.get("device")
        if named is None:
            tensors = [part for part in tree_leaves(args) if isinstance(part, Tensor)]
            return None if tensors else CPU
        if at < len(args):
            args[at] = CPU
        else:
            kwargs["device"] = CPU
        if named.type == "cpu":
            return CPU
        return self.device

    def _common(self, name: str, given: Sequence[Tensor]) -> torch.device:
        if name in _MOVES:
            return given[0].device
        # One number of the host may go into any call.
        devices = {part.device for part in given if part.dim() or isinstance(part, Elsewhere)}
        assert len(devices) < 2, f"{name}: tensors on {' and '.join(sorted(map(str, devices)))}"
        return devices.pop() if devices else CPU

    def _moves(self, name: str, args: list[Any], kwargs: dict[str, Any], to: torch.device) -> None:
        source = args[1] if name in ("copy_", "copy") else args[0]
        if not self.hurried or source.device == to:
            return
        host = args[0] if source.device.type != "cpu" and name == "copy_" else source
        pinned = host.device.type == "cpu" and any(
            host.untyped_storage().data_ptr() == one.untyped_storage().data_ptr()
            for one in self._pinned
        )
        assert source.device.type == "cpu" or name == "copy_", "numbers go to the host"
        assert pinned or to.type == "mps", "a copy that is not from or to pinned memory"

    def _placed(self, part: Any, device: torch.device, own: dict[int, Elsewhere]) -> Any:
        if not isinstance(part, Tensor):
            return part
        if id(part) in own:
            return own[id(part)]
        if device.type == "mps":
            assert part.dtype not in _TOO_WIDE, f"{part.dtype} on {device}"
        return part if device.type == "cpu" else Elsewhere(part, self)


class _Renamed(TorchFunctionMode):
    """Calls that name the device name another one, before torch looks for it."""

    def __init__(self, mode: Device) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            assert not self.mode.hurried, "tolist: numbers of a tensor were read"
            args = (args[0].numbers,)
        named = kwargs.pop("device", None) if func is torch.tensor else None
        result = func(*map(self._renamed, args), **{k: self._renamed(v) for k, v in kwargs.items()})
        return result if named is None else result.to(self._renamed(named))

    def _renamed(self, part: Any) -> Any:
        if isinstance(part, str) and part.partition(":")[0] in ("cuda", "mps"):
            part = torch.device(part)
        if not isinstance(part, torch.device) or part in (CPU, _NAME):
            return part
        assert part.type == self.mode.device.type, f"a tensor on {part}"
        assert part.index in (None, 0), f"a tensor on {part}"
        return _NAME


def _waits_for_nothing(name: str, func: Any, args: Any, kwargs: Any) -> None:
    assert name not in _ASKS, f"{name}: a number of a tensor was read"
    sizes_are_known(func, args, kwargs)


def sizes_are_known(func: Any, args: Any, kwargs: Any) -> None:
    """Fails where how many numbers an operation gives depends on numbers."""
    name = func.overloadpacket.__name__
    assert not name.startswith(_SIZES), f"{name}: the host must know how many"
    if name == "repeat_interleave":
        assert "output_size" in kwargs or func._overloadname == "self_int", name
    if name in _INDEXED:
        types = {part.dtype for part in args[1] if part is not None}
        assert not types & {torch.bool, torch.uint8}, f"{name} by a mask: how many are there?"


def _real(part: Any) -> Any:
    return part.numbers if isinstance(part, Elsewhere) else part


@contextmanager
def pretended(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """This machine has such a device, meanwhile."""
    device = Device(kind)
    with monkeypatch.context() as patch, device, _Renamed(device):
        patch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
        patch.setattr(torch, "inference_mode", torch.no_grad)  # it knows no tensors of others
        patch.setattr(torch.cuda, "Event", _Event)
        yield device


class _Event:
    def record(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...
