"""Op schemas, fallbacks and the compiled library: the only place op names are declared.

The reference is registered under CompositeExplicitAutograd, which the dispatcher uses only where no
device kernel exists; a compiled kernel (csrc/), registered under CPU or CUDA, takes its place.

Environment, read at import:
    RLAIF_PL_REQUIRE_EXT=1: a compiled library that does not load is an error, not a fallback.
    RLAIF_PL_DISABLE_EXT=1: the compiled library is left unloaded, so the reference runs.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rlaif_pl.ops import reference

NAMESPACE = "rlaif_pl"
EXTENSION = "rlaif_pl._C"
SCHEMAS = (
    "gae(Tensor rewards, Tensor values, Tensor lengths, Tensor bootstrap, float gamma,"
    " float gae_lambda) -> (Tensor advantages, Tensor returns)",
    "kl_gae(Tensor logprobs, Tensor ref_logprobs, Tensor values, Tensor scores,"
    " Tensor lengths, Tensor bootstrap, float kl_coef, float gamma, float gae_lambda)"
    " -> (Tensor advantages, Tensor returns, Tensor kl, Tensor moments)",
    "pairwise_ce_fwd(Tensor first, Tensor second, Tensor target, Tensor? weight, bool each=True)"
    " -> (Tensor loss, Tensor dmargin, Tensor total, Tensor sums)",
    "pairwise_ce_bwd(Tensor dmargin, Tensor grad, float scale=1.0) -> (Tensor first, Tensor second)",
    "online_softmax_update_(Tensor(a!) logits, Tensor tokens, Tensor? bias, Tensor(b!) state,"
    " int start, float inv_temperature, float softcap, bool weighted) -> ()",
    "online_softmax_backward_(Tensor(a!) logits, Tensor tokens, Tensor? bias, Tensor rows,"
    " int start, float inv_temperature, float softcap) -> ()",
)
OPS = tuple(schema.split("(", 1)[0] for schema in SCHEMAS)
TARGETS = ("gae", "kl_gae")  # what they return is aimed at, so it never has a gradient
# Made of the ops above, so there is no kernel to choose; ops/linear.py implements them.
COMPOSED = (
    "linear_logprob_fwd(Tensor hidden, Tensor weight, Tensor tokens, Tensor? bias,"
    " float temperature, float softcap, bool keep_slope)"
    " -> (Tensor logprob, Tensor entropy, Tensor logsumexp, Tensor slope)",
    "linear_logprob_bwd(Tensor hidden, Tensor weight, Tensor tokens, Tensor? bias,"
    " Tensor rows, float temperature, float softcap, bool trains_weight, bool trains_bias)"
    " -> (Tensor dhidden, Tensor dweight, Tensor dbias)",
)
BUILD = "RLAIF_PL_BUILD={} pip install --no-build-isolation --no-deps -e ."
HOW_TO_BUILD = (
    f"build it with `{BUILD.format('cpu')}` "
    "(cuda instead of cpu where torch has CUDA and nvcc is installed)"
)


@functools.cache
def _warn_of_missing_cuda_kernels() -> None:
    if os.environ.get("RLAIF_PL_DISABLE_EXT") == "1":
        return  # asked for
    warnings.warn(
        "no CUDA kernels are built, so on this GPU the PyTorch reference of each op runs, with tens of "
        f"launches for one; build them with `{BUILD.format('cuda')}`, which needs nvcc",
        RuntimeWarning,
        stacklevel=2,
    )


def _fallback(op: str) -> Callable[..., object]:
    """Return the reference of an op, which says once that it runs on a GPU in place of a kernel."""
    definition = getattr(reference, op)

    @functools.wraps(definition)
    def run(first: Tensor, *args: object) -> object:
        if first.device.type == "cuda":
            _warn_of_missing_cuda_kernels()
        return definition(first, *args)

    return run


_library = torch.library.Library(NAMESPACE, "DEF")
for _schema, _op in zip(SCHEMAS, OPS, strict=True):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_op, _fallback(_op), "CompositeExplicitAutograd")
for _op in TARGETS:  # a node of autograd that says "no gradient" would cost more than a small batch
    _library.impl(_op, torch.library.fallthrough_kernel, "Autograd")
for _schema in COMPOSED:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _load_extension() -> bool:
    """Load the compiled kernels, which register themselves; False selects the reference."""
    required = os.environ.get("RLAIF_PL_REQUIRE_EXT") == "1"
    if os.environ.get("RLAIF_PL_DISABLE_EXT") == "1":
        if required:
            raise ImportError(
                "RLAIF_PL_REQUIRE_EXT=1 asks for the compiled ops and RLAIF_PL_DISABLE_EXT=1 "
                "forbids them; unset one of the two"
            )
        return False
    try:
        importlib.import_module(EXTENSION)
    except ImportError as error:
        if required:
            raise ImportError(
                f"RLAIF_PL_REQUIRE_EXT=1 but {EXTENSION} did not load ({error}); {HOW_TO_BUILD}"
            ) from error
        # A missing library is a choice (a pure-Python install); a broken one is a surprise.
        if importlib.util.find_spec(EXTENSION) is not None:
            warnings.warn(
                f"{EXTENSION} is installed but did not load, so the slower PyTorch reference "
                f"runs ({error}); {HOW_TO_BUILD}",
                RuntimeWarning,
                stacklevel=2,
            )
        return False
    return True


EXTENSION_LOADED = _load_extension()
_overrides: list[torch.library.Library] = []


@contextmanager
def use_reference() -> Iterator[None]:
    """Let every op of the process, all threads, run its PyTorch reference: for tests and benchmarks."""
    override = torch.library.Library(NAMESPACE, "IMPL")
    _overrides.append(override)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's notice that a kernel is replaced
            for op in OPS:
                for key in ("CPU", "CUDA"):
                    override.impl(op, getattr(reference, op), key, allow_override=True)
        yield
    finally:
        _overrides.remove(override)
        override._destroy()


def backend_of(op: str, device_type: str) -> str:
    """Say whether an op, one of ``OPS``, runs "compiled" or by its "reference" on a type of device."""
    if op not in OPS:
        raise ValueError(f"backend_of: op must be one of {', '.join(OPS)}; got {op!r}")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    is_compiled = has_kernel(f"{NAMESPACE}::{op}", device_type.upper()) and not _overrides
    return "compiled" if is_compiled else "reference"
