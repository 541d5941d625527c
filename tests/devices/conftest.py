"""A device that this machine lacks, pretended: real numbers on the CPU under another device's name.

A tensor on it answers ``.device`` with ``mps:0`` and shares an op with tensors of the CPU only where a
real GPU would take them; it has no float64. So a forgotten ``.to(device)``, a ``.numpy()`` without
``.cpu()`` and a ``.double()`` fail here as they do on an Apple GPU.
"""

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rlaif_pl.models import device as devices
from rlaif_pl.ops import reference

T = torch.Tensor
MPS = torch.device("mps", 0)
MOVES = ("aten::_to_copy", "aten::copy_", "aten::set_")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


def tree_map(change, value):
    """Change every leaf of nested lists, tuples and dictionaries; torch's own is many times slower."""
    if type(value) in (tuple, list):
        return type(value)([tree_map(change, item) for item in value])
    if type(value) is dict:
        return {key: tree_map(change, item) for key, item in value.items()}
    return change(value)


def tensors_in(value) -> list[torch.Tensor]:
    """Return the tensors among the leaves."""
    found = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None, value)
    return found


class Pretended(torch.Tensor):
    """A tensor on the pretended device.

    Args:
        data: Its numbers, on the CPU.
    """

    data_: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> "Pretended":
        if data.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            data.shape,
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=MPS,
        )
        made.data_ = data
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an op as the device would: on its own tensors, results on it."""
    if func.namespace == "rlaif_pl" and hasattr(reference, func._opname):
        # no kernels there: the definition in PyTorch
        return getattr(reference, func._opname)(*args, **kwargs)
    name, flat = func._schema.name, tensors_in((args, kwargs))
    given = flat
    if name in INDEXING:  # places may be on the CPU, values not
        given = [args[0], *args[2:3]]
    alien = [each for each in given if not isinstance(each, Pretended) and each.dim() > 0]
    if alien and name not in MOVES:
        raise RuntimeError(f"{name}: expected all tensors on {MPS}, got one on the CPU")
    if kwargs.get("dtype") == torch.float64:
        raise TypeError(f"{name}: MPS has no float64")
    plain_args, plain_kwargs = tree_map(plain, (args, kwargs))
    place = kwargs.get("device")
    if place is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    to_cpu = place is not None and place.type == "cpu"
    if name == "aten::copy_" and not isinstance(args[0], Pretended):
        return args[0]
    known = {id(plain(each)): each for each in flat if isinstance(each, Pretended)}

    def placed(leaf):
        if to_cpu or not isinstance(leaf, torch.Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else Pretended(leaf)

    return tree_map(placed, result)


def whole(func, args, kwargs):
    """Run what torch takes apart by device as one op."""
    if any(x.dim() and not isinstance(x, Pretended) for x in tensors_in((args, kwargs))):
        raise RuntimeError(f"{func.__name__}: expected all tensors on {MPS}, got one on the CPU")
    args, kwargs = tree_map(plain, (args, kwargs))
    return tree_map(lambda x: Pretended(x) if isinstance(x, T) else x, func(*args, **kwargs))


def plain(value):
    """Return the numbers of a tensor."""
    return value.data_ if isinstance(value, Pretended) else value


def numbered(value):
    """Name the device with its number, for which torch would else ask the driver."""
    unnumbered = isinstance(value, str | torch.device) and str(value) == "mps"
    return MPS if unnumbered else value


class Factories(TorchDispatchMode):
    """Lets ops without tensors of the device make such."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = kwargs.get("device")
        if place is not None and place.type == MPS.type:
            return run(func, args, kwargs)
        return func(*args, **kwargs)


def set_item(args, kwargs):
    """Write into a tensor of the device."""
    held, places, value = args
    if isinstance(value, torch.Tensor) and value.dim() and not isinstance(value, Pretended):
        raise RuntimeError(f"__setitem__: expected all tensors on {MPS}, got one on the CPU")
    held.data_[tree_map(plain, places)] = plain(value)


def copy(args, kwargs):
    """Copy from either place into a tensor of the device."""
    args[0].data_.copy_(plain(args[1]))
    return args[0]


SPECIAL = {
    T.tolist: lambda args, kwargs: args[0].data_.tolist(),
    T.__getitem__: lambda args, kwargs: Pretended(args[0].data_[tree_map(plain, args[1])]),
    T.__setitem__: set_item,
    T.copy_: copy,
    sdpa: lambda args, kwargs: whole(sdpa, args, kwargs),
}


class Driverless(TorchFunctionMode):
    """Answers where torch would ask the device's driver, which is not there. No gradients."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = tuple(map(numbered, args))
        kwargs = {name: numbered(value) for name, value in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == MPS:
            return Pretended(func(*args, **kwargs | {"device": "cpu"}))
        if func in SPECIAL and isinstance(args[0], Pretended):
            return SPECIAL[func](args, kwargs)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for mps" not in str(error):
                raise
            return whole(func, args, kwargs)


@pytest.fixture
def pretended(monkeypatch) -> Iterator[torch.device]:
    """Let this machine have an Apple GPU, for what is run in the test."""
    monkeypatch.setattr(devices, "devices_here", lambda: ["cpu", "mps"])
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a tensor of another class
    try:
        with Driverless(), Factories(), torch.no_grad():
            yield MPS
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
