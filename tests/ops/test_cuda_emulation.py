"""The GPU kernels without a GPU: their source runs as host C++ under sanitizers.

Address and undefined-behavior sanitizers watch every access; the numbers are held to the error
budget of the reference.
"""

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif_pl.ops import reference

HERE = Path(__file__).parent / "cuda_emulation"
COMPILER = os.environ.get("CXX", "c++")
some_shapes = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = {torch.float32: "float", torch.float64: "double"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """Compile the driver once; skip where there is no compiler."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER}")
    program = tmp_path_factory.mktemp("emulation") / "driver"
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wno-unknown-pragmas"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [COMPILER, *flags, str(HERE / "driver.cpp"), "-o", str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return program


def emulate(driver, op, blocks, arrays, *numbers):
    """Run a kernel on the host; returns its two outputs in the shape of the first array."""
    first = arrays[0]
    done = run(driver, op, blocks, arrays, *numbers)
    flat = torch.frombuffer(bytearray(done), dtype=first.dtype, count=2 * first.numel())
    return flat.view(2, *first.shape).unbind()


def run(driver, op, blocks, arrays, *numbers) -> bytes:
    """Run a kernel on the host; returns what it wrote."""
    first = arrays[0]
    done = subprocess.run(
        [str(driver), op, NAMES[first.dtype], str(blocks), *map(str, numbers)],
        input=b"".join(array.contiguous().numpy().tobytes() for array in arrays),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def split(raw: bytes, *parts):
    """Cut the output into tensors, each given as its dtype and shape."""
    tensors, at = [], 0
    for dtype, shape in parts:
        count = math.prod(shape)
        tensors.append(torch.frombuffer(bytearray(raw), dtype=dtype, offset=at, count=count))
        tensors[-1] = tensors[-1].view(shape)
        at += count * dtype.itemsize
    assert at == len(raw)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "blocks"),
    [((1, 1), 1), ((3, 7), 1), ((9, 33), 2), ((6, 32), 2), ((2, 1025), 1), ((5, 100), 1)],
    ids=str,
)
def test_gae_kernel(shape, blocks, dtype, driver, exact_gae, assert_within_budget):
    n, t = shape
    rewards, values = torch.randn(2, n, t, dtype=dtype)
    lengths = torch.randint(0, t + 1, (n,))
    lengths[0], lengths[-1] = t, max(t - 1, 0)
    bootstrap = torch.randn(n, dtype=dtype)
    args = (rewards, values, lengths, bootstrap)
    got = emulate(driver, "gae", blocks, args, n, t, 0.99, 0.95)
    plain = reference.gae(*args, 0.99, 0.95)
    truth = exact_gae(*args, 0.99, 0.95)
    for one, same_dtype, true in zip(got, plain, truth, strict=True):
        assert_within_budget(one, same_dtype, true)


def test_gae_kernel_bounds_wild_lengths_and_keeps_nan_in_place(driver):
    rewards, values = torch.randn(2, 4, 70)
    lengths = torch.tensor([-5, 2**62, 40, 70])
    rewards[2, 40:], values[2, 40:] = float("nan"), float("nan")
    rewards[3, 35] = float("nan")
    bootstrap = torch.zeros(4)
    advantages, _ = emulate(
        driver, "gae", 1, (rewards, values, lengths, bootstrap), 4, 70, 0.9, 0.9
    )
    want, _ = reference.gae(rewards, values, lengths.clamp(0, 70), bootstrap, 0.9, 0.9)
    assert (advantages[0] == 0).all()
    torch.testing.assert_close(advantages, want, equal_nan=True)
    assert advantages[3].isnan().sum() == 36


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "blocks"), [(1, 1), (300, 2), (1000, 1)])
def test_pairwise_ce_kernel(n, blocks, dtype, driver, exact_pairwise_ce, assert_within_budget):
    first, second = 4 * torch.randn(2, n, dtype=dtype)
    target, weight = torch.rand(2, n, dtype=dtype)
    target[::3], weight[::4] = 1.0, 0.0
    args = (first, second, target, weight)
    got = emulate(driver, "pairwise_ce", blocks, args, n)
    plain = reference.pairwise_ce_fwd(*args)[:2]
    truth = exact_pairwise_ce(*args)
    for one, same_dtype, true in zip(got, plain, truth, strict=True):
        assert_within_budget(one, same_dtype, true)


def test_pairwise_ce_sums(driver):
    first, second = 4 * torch.randn(2, 700, dtype=torch.float64)
    target, weight = torch.rand(2, 700, dtype=torch.float64)
    args = (first, second, target, weight)
    each, f64 = (700,), torch.float64
    _, _, got = split(
        run(driver, "pairwise_ce", 2, args, 700), (f64, each), (f64, each), (f64, (4,))
    )
    _, _, total, sums = reference.pairwise_ce_fwd(*args)
    torch.testing.assert_close(got, torch.cat([total[None], sums]))


@some_shapes
@given(
    n=st.integers(1, 6),
    t=st.integers(1, 100),
    blocks=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_shaped_gae_kernel(n, t, blocks, dtype, seed, driver):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, n, t, dtype=dtype, generator=generator)
    scores, bootstrap = torch.randn(2, n, dtype=dtype, generator=generator)
    lengths = torch.randint(0, t + 1, (n,), generator=generator)
    raw = run(
        driver, "shaped_gae", blocks, (*rows, scores, bootstrap, lengths), n, t, 0.2, 0.99, 0.95
    )
    shapes = [(dtype, (n, t)), (dtype, (n, t)), (dtype, (n,)), (torch.float64, (n, 2))]
    want = reference.shaped_gae(*rows, scores, lengths, bootstrap, 0.2, 0.99, 0.95)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(split(raw, *shapes), list(want), **close)


@some_shapes
@given(
    n=st.integers(1, 6),
    width=st.integers(1, 90),
    blocks=st.integers(1, 2),
    softcap=st.sampled_from([0.0, 4.0]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_softmax_kernels(n, width, blocks, softcap, weighted, dtype, seed, driver):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(n, width, dtype=dtype, generator=generator)
    bias = torch.randn(width, dtype=dtype, generator=generator)
    bias[0] = -torch.inf if width > 1 else 0.0
    # Some tokens lie in this block of columns, which starts at 50, and some outside.
    tokens = 50 + torch.randint(-width, 2 * width, (n,), generator=generator)
    state = torch.rand(n, 5, dtype=dtype, generator=generator)
    state[0] = torch.tensor([-torch.inf, 0, 0, 0, 0])
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    numbers = (n, width, 50, 1.25, softcap)
    raw = run(
        driver, "softmax_block", blocks, (logits, bias, state, tokens), *numbers, int(weighted)
    )
    want, want_state = logits.clone(), state.clone()
    reference.softmax_block_(want, tokens, bias, want_state, 50, 1.25, softcap, weighted)
    got = split(raw, (dtype, (n, width)), (dtype, (n, 5)))
    torch.testing.assert_close(got, [want, want_state], **close)
    rows = torch.randn(n, 4, dtype=dtype, generator=generator)
    rows[:, 0] = (1.25 * (logits + bias)).logsumexp(1)
    raw = run(driver, "softmax_slope", blocks, (logits, bias, rows, tokens), *numbers)
    want = logits.clone()
    reference.softmax_slope_(want, tokens, bias, rows, 50, 1.25, softcap)
    got = split(raw, (dtype, (n, width)), (dtype, (n, 4)))
    torch.testing.assert_close(got, [want, rows], **close)
