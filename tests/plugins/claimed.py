"""A GPU that this machine lacks, claimed: real numbers on the CPU that answer ``.device`` with another.

To torch's C++ part these tensors are on the CPU, so autograd runs too, and only Python reads ``cuda:0``
or ``mps:0``. Each op goes through ``run``, which

- refuses tensors of the CPU beside those of the GPU, as a GPU does, and on ``mps`` float64;
- notes where the host would wait for the GPU, by the rules of ``torch.cuda.set_sync_debug_mode``:
  values and shapes that depend on data, and copies between host and GPU that are not
  ``non_blocking`` from pinned memory;
- computes what has no CPU implementation (FlashAttention, 16-bit products that give float32) by its
  definition, and asserts what the CUDA implementation asks of its arguments;
- where this torch is built with CUDA, also runs the op on fake tensors on cuda (``FakeTensorMode``):
  torch's own rules for devices, shapes and types must agree, and an op whose result they cannot know
  must be one that is noted as a wait.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rlaif_pl.engine.attention.leaf import MATH, Attended
from rlaif_pl.engine.batch import AttentionBlock, Runs
from rlaif_pl.models import device as devices
from rlaif_pl.ops import linear, reference

OF_TORCH = torch.__file__.removesuffix("__init__.py"), __file__  # files that pass calls on
CUDA, MPS = torch.device("cuda", 0), torch.device("mps", 0)
# What gives a value to the host, or a result whose shape depends on values.
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
SHAPES = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::bincount",
}
SHAPES |= {
    "aten::masked_scatter_backward",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
COPIES = {"aten::copy_", "aten::_to_copy", "aten::set_"}
COMPOSED = {
    "rlaif_pl::linear_logprob_fwd": linear._forward,
    "rlaif_pl::linear_logprob_bwd": linear._backward_blocks,
}
LOOKED_AT = READS | SHAPES | INDEXING | {"aten::isin", "aten::copy_"}  # may wait for the GPU
SIXTEEN = (torch.float16, torch.bfloat16)


class Claimed(torch.Tensor):
    """A tensor that claims to be on the GPU.

    Args:
        held: Its numbers.
        shadow: The same as torch fakes it on a GPU; made where None and there are shadows.
    """

    held: Tensor
    shadow: Tensor | None
    device = property(lambda self: STATE.place)  # type: ignore[assignment]
    is_cuda = property(lambda self: STATE.place == CUDA)  # type: ignore[assignment]
    is_mps = property(lambda self: STATE.place == MPS)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor, shadow: Tensor | None = None) -> Claimed:
        if held.dtype == torch.float64 and STATE.place == MPS:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",
        )
        made.held, made.shadow = held, shadow
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def get_device(self) -> int:
        return 0

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return STATE.run(func, args, kwargs or {})


def tree_map(change, value):
    """Change every leaf of nested lists, tuples and dictionaries."""
    if type(value) in (tuple, list):
        return type(value)([tree_map(change, item) for item in value])
    if type(value) is dict:
        return {key: tree_map(change, item) for key, item in value.items()}
    return change(value)


def leaves(value) -> list[Any]:
    """Return the leaves."""
    found: list[Any] = []
    tree_map(found.append, value)
    return found


def tensors_of(args, kwargs) -> list[Tensor]:
    """Return the tensors among arguments; most arguments are no lists."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in (tuple, list):
            found += [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]
    return found


def held(value):
    """Return the numbers of a claimed tensor, all else as it is."""
    if isinstance(value, Claimed):
        return value.held
    return tree_map(held, value) if type(value) in (tuple, list, dict) else value


def frames_above() -> Iterator[FrameType]:
    """Yield who called, innermost first; ``traceback`` would read every line of their sources."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_own(file: str) -> bool:
    """Whether a file is of this package."""
    return "/rlaif_pl/" in file and "/tests/" not in file


class Gpu:
    """What is claimed, and where the host would have waited for it."""

    def __init__(self, place: torch.device = CUDA) -> None:
        self.place = place
        self.waits: Counter[str] = Counter()
        self.names: dict[Any, tuple[str, str]] = {}  # of ops, and of their overloads
        self.capability = 9, 0
        self.mode: Claiming | None = None
        self.fake: FakeTensorMode | None = None

    def note(self, what: str) -> None:
        """Note a wait, with the innermost line of this package, or of who calls."""
        callers = [f for f in frames_above() if f.f_code.co_filename != __file__]
        last = next((f for f in callers if is_own(f.f_code.co_filename)), callers[0])
        file = last.f_code.co_filename
        where = file.partition("/rlaif_pl/")[2] or file.rpartition("/")[2]
        self.waits[f"{where}:{last.f_lineno} {last.f_code.co_name}: {what}"] += 1

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Give the waits of a block."""
        before = self.waits.copy()
        found: Counter[str] = Counter()
        yield found
        found.update(self.waits - before)

    def claim(self, tensor: Tensor) -> Claimed:
        """Return a tensor with the same numbers that claims the GPU."""
        return tensor if isinstance(tensor, Claimed) else Claimed(tensor)

    def move(self, module: nn.Module) -> nn.Module:
        """Put weights and buffers on the GPU, those that are tied together."""
        seen: dict[int, Tensor] = {}
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None and not isinstance(weight, Claimed):
                    if id(weight) not in seen:
                        there = Claimed(weight.detach().clone())
                        seen[id(weight)] = nn.Parameter(there, requires_grad=weight.requires_grad)
                    part._parameters[name] = seen[id(weight)]  # type: ignore[assignment]
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.claim(buffer.clone())
        return module

    def run(self, func, args, kwargs):
        """Run an op as the GPU would."""
        if func not in self.names:
            self.names[func] = func._schema.name, str(func)
        name, overload = self.names[func]
        composed = COMPOSED.get(name)
        if self.place == MPS and func.namespace == "rlaif_pl":  # no kernels there: the definition
            composed = getattr(reference, func._opname, composed)
        if composed is not None:
            with self.mode:
                return composed(*args, **kwargs)
        if self.place == MPS and torch.float64 in kwargs.values():
            raise TypeError(f"{name}: MPS has no float64")
        if name == "aten::_fused_sdp_choice":
            return 0  # the definition in plain ops, whose results any backend has
        flat = tensors_of(args, kwargs)
        self.check_devices(name, args, flat)
        wait = self.reason_to_wait(name, args, kwargs) if name in LOOKED_AT else None
        if wait:
            self.note(wait)
        own = {key: held(value) for key, value in kwargs.items() if key != "device"}
        result = (SPECIAL.get(overload) or func)(*map(held, args), **own)
        if name == "aten::copy_" and not isinstance(args[0], Claimed):
            return args[0]
        known = {id(each.held): each for each in flat if isinstance(each, Claimed)}
        shadows = self.fake and self.shadow_run(func, args, kwargs, result, bool(wait))

        def placed(leaf, shadow):
            if not isinstance(leaf, Tensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else Claimed(leaf, shadow)

        if isinstance(result, tuple | list):
            pairs = zip(result, shadows or [None] * len(result), strict=True)
            return type(result)([placed(leaf, shadow) for leaf, shadow in pairs])
        return placed(result, shadows)

    def check_devices(self, name: str, args, flat: list[Tensor]) -> None:
        """Refuse what a GPU would: numbers alone may come from the CPU, and places to read."""
        given = [] if all(isinstance(each, Claimed) for each in flat) else flat
        if name in INDEXING:
            given = [leaf for leaf in (args[0], *args[2:3]) if isinstance(leaf, Tensor)]
        alien = [each for each in given if not isinstance(each, Claimed) and each.dim() > 0]
        if alien and name not in COPIES:
            raise RuntimeError(f"{name}: expected all tensors on {self.place}, got one on the CPU")

    @staticmethod
    def reason_to_wait(name: str, args, kwargs) -> str | None:
        """Say why the host waits for the GPU in an op; None where it does not."""
        if name in READS:
            return f"{name} gives a value to the host"
        if name in SHAPES and kwargs.get("output_size") is None:
            return f"{name} has as many results as values say"
        if name in INDEXING:
            places = [place for place in args[1] if place is not None]
            if any(not isinstance(place, Claimed) for place in places):
                return f"{name} copies places from the host"
            masks = [place for place in places if place.dtype in (torch.bool, torch.uint8)]
            fills = name != "aten::index" and args[2].numel() == 1 and len(masks) == len(places)
            if masks and not fills:
                return f"{name} has as many places as a mask says"
        if name == "aten::isin" and isinstance(args[1], Tensor):
            many = args[1].numel() >= 10 * max(args[0].numel(), 1) ** 0.145
            return "aten::isin sorts what is unique" if many else None
        if name == "aten::copy_" and isinstance(args[0], Claimed) != isinstance(args[1], Claimed):
            blocking = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
            number = isinstance(args[0], Claimed) and args[1].dim() == 0
            return "a copy from or to the host" if blocking and not number else None
        return None

    def shadow_of(self, value):
        """Return what torch fakes of a value."""
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, Claimed):
            return self.fake.from_tensor(value)
        if value.shadow is None:
            with self.fake:
                value.shadow = torch.empty_strided(
                    value.held.shape, value.held.stride(), dtype=value.held.dtype, device=CUDA
                )
        return value.shadow

    def shadow_run(self, func, args, kwargs, result, waits: bool):
        """Run an op on fake tensors on cuda and compare; gives the fake results, or None."""
        fake = tree_map(self.shadow_of, (args, kwargs))
        if isinstance(fake[1].get("device"), torch.device):
            fake[1]["device"] = CUDA
        try:
            with self.fake:
                found = func(*fake[0], **fake[1])
        except (DataDependentOutputException, DynamicOutputShapeException):
            assert waits, f"{func} depends on data, and is not counted as a wait"
            return None
        alike = [leaf for leaf in leaves(found) if isinstance(leaf, Tensor)]
        truth = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
        for ours, theirs in zip(truth, alike, strict=True):
            if str(func) not in SPECIAL or ours.numel():
                assert theirs.device.type == "cuda", f"{func} gives a tensor on {theirs.device}"
                assert theirs.dtype == ours.dtype, f"{func} gives {theirs.dtype}, not {ours.dtype}"
                assert waits or tuple(theirs.shape) == ours.shape, f"{func}: {theirs.shape}"
        if any(isinstance(size, torch.SymInt) for leaf in alike for size in leaf.shape):
            return None
        return found


STATE = Gpu()


def is_gpu(place) -> bool:
    """Whether a device by name or object is the GPU."""
    named = isinstance(place, str | torch.device)
    return named and torch.device(place).type == STATE.place.type


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor of the host was pinned."""
    return getattr(tensor, "claims_pinned", False)


class Claiming(TorchFunctionMode):
    """Makes tensors on the GPU where Python asks for them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # a shape or type: most of all calls
            return func(*args, **kwargs)
        if func in FUNCTIONS:
            return FUNCTIONS[func](self, args, kwargs)
        if kwargs and is_gpu(kwargs.get("device")):
            if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
                STATE.note("a tensor made of values on the host")
            return STATE.claim(func(*args, **kwargs | {"device": "cpu"}))
        if func is torch._C._nn.pad_sequence:
            with Factories():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class Factories(TorchDispatchMode):
    """Makes tensors on the GPU where C++ does: it takes a tensor's own place, which is the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        alone = not any(isinstance(leaf, Tensor) for leaf in leaves((args, kwargs or {})))
        return STATE.claim(result) if alone else result


def move_to(mode, args, kwargs):
    """``Tensor.to``."""
    tensor, *rest = args
    if rest and isinstance(rest[0], Tensor):
        rest[:1] = [rest[0].device, rest[0].dtype]
    copy = kwargs.pop("copy", False)
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
    dtype = tensor.dtype if dtype is None else dtype
    there = isinstance(tensor, Claimed)
    goes = there if device is None else is_gpu(device)
    if goes == there:
        return tensor.to(dtype, copy=copy)
    if there and dtype == torch.float64 and STATE.place == MPS:
        raise TypeError("MPS has no float64 to copy from")
    if there:
        assert not (tensor.requires_grad and torch.is_grad_enabled()), "no gradient to the host"
        STATE.note("a copy to the host")
        return tensor.held.to(dtype).clone()
    assert not (non_blocking and STATE.place == MPS), "pytorch #139550: it may read freed memory"
    if not (non_blocking and is_pinned(tensor)):
        STATE.note("a copy from memory of the host that is not pinned, or waited for")
    return Claimed(tensor.detach().to(dtype).clone())


def to_list(mode, args, kwargs):
    """``Tensor.tolist``."""
    if isinstance(args[0], Claimed):
        STATE.note("a copy to the host")
    return held(args[0]).tolist()


def pin(mode, args, kwargs):
    """``Tensor.pin_memory``."""
    assert not isinstance(args[0], Claimed), "only memory of the host can be pinned"
    pinned = args[0].clone()
    pinned.claims_pinned = True
    return pinned


def to_numpy(mode, args, kwargs):
    """``Tensor.numpy``."""
    if isinstance(args[0], Claimed):
        raise TypeError(f"can't convert {STATE.place} device type tensor to numpy")
    return args[0].numpy(**kwargs)


def backward(mode, args, kwargs):
    """``Tensor.backward``, in which tensors are made too."""
    (loss,) = args
    with mode, Factories():
        # torch.autograd.backward would ask the mode again, without end
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True
        )


def fused_attention(mode, args, kwargs):
    """``scaled_dot_product_attention``; this package's calls are to be such as fused kernels take."""
    function = torch._C._nn.scaled_dot_product_attention
    caller = next(f for f in frames_above() if not f.f_code.co_filename.startswith(OF_TORCH))
    query, key = args[:2]
    is_ours = isinstance(query, Claimed) and is_own(caller.f_code.co_filename)
    if is_ours and STATE.place == CUDA and query.shape[1] != key.shape[1]:
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        assert mask is None, "FlashAttention takes no mask, the others no shared key heads"
        assert query.dtype in SIXTEEN, "FlashAttention takes no float32"
    return function(*args, **kwargs)


FUNCTIONS = {
    torch._C._nn.scaled_dot_product_attention: fused_attention,
    Tensor.to: move_to,
    Tensor.cpu: lambda mode, args, kwargs: move_to(mode, (args[0], "cpu"), {}),
    Tensor.cuda: lambda mode, args, kwargs: move_to(mode, (args[0], CUDA), kwargs),
    Tensor.tolist: to_list,
    Tensor.numpy: to_numpy,
    Tensor.pin_memory: pin,
    Tensor.backward: backward,
}


def block_of(q, k, cumulative_q, cumulative_k, longest_q, longest_k, causal) -> AttentionBlock:
    """Read the runs of variable lengths, and assert what FlashAttention asks of them."""
    runs = []
    for cumulative, longest, total in (
        (cumulative_q, longest_q, len(q)),
        (cumulative_k, longest_k, len(k)),
    ):
        assert cumulative.dtype == torch.int32
        assert cumulative.is_contiguous()
        edges = cumulative.tolist()
        assert edges[0] == 0
        assert edges[-1] == total, f"expected runs of {total} tokens, got {edges}"
        lengths = tuple(cumulative.diff().tolist())
        assert longest >= max(lengths, default=0)
        runs.append(Runs(lengths, cumulative))
    assert len(runs[0].lengths) == len(runs[1].lengths)
    assert runs[0].lengths, "FlashAttention takes at least one run"
    if causal:  # FlashAttention aligns the diagonal at the end
        assert runs[0].lengths == runs[1].lengths
    return AttentionBlock(slice(0, len(q)), slice(0, len(k)), *runs, causal)


def check_flash(*tensors: Tensor) -> None:
    """Assert what FlashAttention asks of its tensors."""
    for tensor in tensors:
        assert tensor.dtype in SIXTEEN
        assert tensor.dtype == tensors[0].dtype
        assert tensor.stride(-1) == 1
        assert tensor.shape[-1] % 8 == 0
        assert tensor.shape[-1] <= 256
    assert STATE.capability >= (8, 0)
    assert tensors[0].shape[-2] % tensors[1].shape[-2] == 0


def flash_forward(
    q, k, v, cum_q, cum_k, max_q, max_k, dropout, causal, debug, *, scale=None, **rest
):
    """``aten::_flash_attention_forward`` by its definition."""
    assert not dropout
    assert not debug
    assert not any(value is not None for value in rest.values())
    check_flash(q, k, v)
    if cum_q is None:
        assert (max_q, max_k) == (q.shape[1], k.shape[1]) == (1, k.shape[1])
        found = MATH.dense((q[:, 0], k, v), scale)
        output, lse = found.output[:, None], found.lse[..., None]
    else:
        block = block_of(q, k, cum_q, cum_k, max_q, max_k, causal)
        assert max_q > 0, "the forward pass would launch a grid of zero blocks"
        if (
            max_q == 1 and q.shape[1] > k.shape[1]
        ):  # heads are folded into the one query of each run
            assert set(block.query_runs.lengths) == {1}, "a run without a query is refused"
        found = MATH.forward((q, k, v), block, scale)
        output, lse = found.output, found.lse.T.contiguous()
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    state = torch.zeros(2, dtype=torch.uint64)
    return output, lse, state, state.new_empty(()), q.new_empty(0)


def flash_backward(
    grad,
    q,
    k,
    v,
    out,
    lse,
    cum_q,
    cum_k,
    max_q,
    max_k,
    dropout,
    causal,
    seed,
    offset,
    *,
    scale=None,
):
    """``aten::_flash_attention_backward`` by its definition."""
    check_flash(q, k, v, grad, out)
    assert out.is_contiguous()
    assert lse.is_contiguous()
    assert lse.dtype == torch.float32
    block = block_of(q, k, cum_q, cum_k, max_q, max_k, causal)
    return MATH.backward(grad, (q, k, v), Attended(out, lse.T), block, scale)


def widening_product(left, right, out_dtype):
    """``aten::mm`` with ``out_dtype``."""
    assert left.dtype == right.dtype
    assert left.dtype in SIXTEEN
    assert out_dtype == torch.float32
    return left.to(out_dtype) @ right.to(out_dtype)


SPECIAL = {
    "aten._flash_attention_forward.default": flash_forward,
    "aten._flash_attention_backward.default": flash_backward,
    "aten.mm.dtype": widening_product,
}


@contextmanager
def claiming_gpu(place: torch.device = CUDA, shadows: bool | None = None) -> Iterator[Gpu]:
    """Claim a GPU for a block.

    Args:
        place: Which.
        shadows: Also run every op on torch's fake tensors; where None if torch is built with CUDA.
    """
    STATE.__init__(place)  # type: ignore[misc]
    if (torch.version.cuda is not None and place == CUDA) if shadows is None else shadows:
        STATE.fake = FakeTensorMode()
    with Claiming() as STATE.mode:
        yield STATE


@contextmanager
def machine_with(place: torch.device, monkeypatch) -> Iterator[Gpu]:
    """Let this machine have a GPU, for what is run in a block."""
    name = "mps" if place == MPS else str(place)
    monkeypatch.setattr(devices, "devices_here", lambda: ["cpu", name])
    facts = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _=None: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: STATE.capability)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a tensor of another class
    try:
        with claiming_gpu(place) as found:
            yield found
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture
def gpu(monkeypatch) -> Iterator[Gpu]:
    """Let this machine have an NVIDIA GPU."""
    with machine_with(CUDA, monkeypatch) as found:
        yield found


@pytest.fixture
def apple_gpu(monkeypatch) -> Iterator[Gpu]:
    """Let this machine have an Apple GPU."""
    with machine_with(MPS, monkeypatch) as found:
        yield found
