"""The GPU kernels without a GPU: their source runs as host C++ under sanitizers.

Address and undefined-behavior sanitizers watch every access; the numbers are held to the error
budget of the reference. The thread sanitizer watches a second build for a barrier left out.
"""

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from filelock import FileLock
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
NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half",
    torch.bfloat16: "bfloat16",
}
CLOSE = {  # of a number that was computed in another order and rounded once
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float16: {"rtol": 2e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-3},
}
INCLUDE = Path(torch.__file__).parent / "include"
every_dtype = pytest.mark.parametrize("dtype", NAMES, ids=str)


def build(name: str, tmp_path_factory, *flags: str) -> Path:
    """Compile the driver, once for all processes of pytest; skip where there is no compiler."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER}")
    folder = tmp_path_factory.getbasetemp()
    program = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with FileLock(f"{program}.lock"):
        if not program.exists():
            compile_driver(program, *flags)
    return program


def compile_driver(program: Path, *flags: str) -> None:
    command = [COMPILER, "-std=c++20", "-g", "-pthread", "-Wall", "-Wno-unknown-pragmas", *flags]
    command += ["-isystem", str(INCLUDE), str(HERE / "driver.cpp"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """Hand out the driver under the address and undefined-behavior sanitizers."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return build("emulation", tmp_path_factory, "-O1", *sanitizers)


@pytest.fixture(scope="module")
def race_driver(tmp_path_factory) -> Path:
    """Hand out the driver under the thread sanitizer."""
    return build("races", tmp_path_factory, "-O1", "-fsanitize=thread", "-DONLY_FLOAT")


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
        input=b"".join(
            array.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for array in arrays
        ),
        capture_output=True,
        timeout=300,
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


@every_dtype
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


def sample_pairs(n, dtype):
    """Draw two scores, and targets and weights in the dtype that arithmetic runs in."""
    first, second = (4 * torch.randn(2, n)).to(dtype)
    target, weight = torch.rand(2, n, dtype=reference.accumulator_dtype(dtype))
    target[::3], weight[::4] = 1.0, 0.0
    return first, second, target, weight


@every_dtype
@pytest.mark.parametrize(("n", "blocks"), [(1, 1), (300, 2), (1000, 1)])
def test_pairwise_ce_kernel(n, blocks, dtype, driver, exact_pairwise_ce, assert_within_budget):
    args = sample_pairs(n, dtype)
    each, acc = (n,), args[2].dtype
    raw = run(driver, "pairwise_ce", blocks, args, n)
    *got, total, sums = split(raw, (dtype, each), (dtype, each), (acc, ()), (torch.float64, (3,)))
    *plain, want_total, want_sums = reference.pairwise_ce_fwd(*args)
    truth = exact_pairwise_ce(*args)
    for one, same_dtype, true in zip(got, plain, truth, strict=True):
        assert_within_budget(one, same_dtype, true)
    torch.testing.assert_close([total, sums], [want_total, want_sums], rtol=1e-5, atol=1e-5)


@every_dtype
@pytest.mark.parametrize("stride", [0, 1, 3])
def test_pairwise_ce_backward_kernel(stride, dtype, driver):
    dmargin, grad = torch.randn(600, dtype=dtype), torch.randn(1800, dtype=dtype)
    grad = grad[: 599 * stride + 1]
    raw = run(driver, "pairwise_ce_backward", 2, (dmargin, grad), 600, stride, 0.25)
    seen = grad[0] if stride == 0 else grad[::stride]
    want = reference.pairwise_ce_bwd(dmargin, seen, 0.25)
    torch.testing.assert_close(split(raw, *[(dtype, (600,))] * 2), list(want), **CLOSE[dtype])


@some_shapes
@given(
    n=st.integers(1, 6),
    t=st.integers(1, 100),
    blocks=st.integers(1, 2),
    dtype=st.sampled_from(list(NAMES)),
    seed=st.integers(0, 1000),
)
def test_kl_gae_kernel(n, t, blocks, dtype, seed, driver):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, n, t, generator=generator).to(dtype)
    scores, bootstrap = torch.randn(2, n, generator=generator).to(dtype)
    lengths = torch.randint(0, t + 1, (n,), generator=generator)
    raw = run(driver, "kl_gae", blocks, (*rows, scores, bootstrap, lengths), n, t, 0.2, 0.99, 0.95)
    shapes = [(dtype, (n, t)), (dtype, (n, t)), (dtype, (n,)), (torch.float64, (n, 2))]
    want = reference.kl_gae(*rows, scores, lengths, bootstrap, 0.2, 0.99, 0.95)
    *got, moments = split(raw, *shapes)
    torch.testing.assert_close(got, list(want[:3]), **CLOSE[dtype])
    close = CLOSE[reference.accumulator_dtype(dtype)]
    torch.testing.assert_close(moments, want[3], **close)


def sample_logits(n, width, dtype, seed):
    """Draw logits, a bias that forbids a token, and tokens in and around columns from 50 on."""
    generator = torch.Generator().manual_seed(seed)
    acc = reference.accumulator_dtype(dtype)
    logits = (5 * torch.randn(n, width, generator=generator)).to(dtype)
    bias = torch.randn(width, dtype=acc, generator=generator)
    bias[0] = -torch.inf if width > 1 else 0.0
    return logits, bias, 50 + torch.randint(-width, 2 * width, (n,), generator=generator)


some_softmax = given(
    n=st.integers(1, 4),
    width=st.integers(1, 1200),  # odd ones leave rows that begin between two packs
    blocks=st.integers(1, 2),
    softcap=st.sampled_from([0.0, 4.0]),
    weighted=st.booleans(),
    dtype=st.sampled_from(list(NAMES)),
    seed=st.integers(0, 1000),
)


@some_shapes
@some_softmax
def test_online_softmax_update_kernel(n, width, blocks, softcap, weighted, dtype, seed, driver):
    logits, bias, tokens = sample_logits(n, width, dtype, seed)
    state = torch.rand(n, 5, dtype=bias.dtype)
    state[0] = torch.tensor([-torch.inf, 0, 0, 0, 0])
    arrays, numbers = (logits, bias, state, tokens), (n, width, 50, 1.25, softcap, int(weighted))
    raw = run(driver, "online_softmax_update", blocks, arrays, *numbers)
    want, want_state = logits.clone(), state.clone()
    reference.online_softmax_update_(
        want, tokens, bias, want_state, 50, 1.25, softcap, bool(weighted)
    )
    got, got_state = split(raw, (dtype, (n, width)), (bias.dtype, (n, 5)))
    torch.testing.assert_close(got, want, **CLOSE[dtype])
    torch.testing.assert_close(got_state, want_state, **CLOSE[bias.dtype])


@some_shapes
@some_softmax
def test_online_softmax_backward_kernel(n, width, blocks, softcap, weighted, dtype, seed, driver):
    logits, bias, tokens = sample_logits(n, width, dtype, seed)
    rows = torch.randn(n, 4, dtype=bias.dtype)
    rows[:, 0] = (1.25 * (logits + bias)).logsumexp(1)
    arrays, numbers = (logits, bias, rows, tokens), (n, width, 50, 1.25, softcap)
    raw = run(driver, "online_softmax_backward", blocks, arrays, *numbers)
    want = logits.clone()
    reference.online_softmax_backward_(want, tokens, bias, rows, 50, 1.25, softcap)
    got, _ = split(raw, (dtype, (n, width)), (bias.dtype, (n, 4)))
    torch.testing.assert_close(got, want, **CLOSE[dtype])


def test_forbidden_columns_keep_an_empty_state(driver):
    logits, tokens = torch.randn(2, 40), torch.tensor([50, 60])
    state = torch.tensor([[-torch.inf, 0, 0, 0, 0], [1.5, 2.0, -0.5, 0.25, 1.0]])
    arrays = logits, torch.full((40,), -torch.inf), state, tokens
    raw = run(driver, "online_softmax_update", 1, arrays, 2, 40, 50, 1.0, 0.0, 1)
    weights, got = split(raw, (torch.float32, (2, 40)), (torch.float32, (2, 5)))
    assert (weights == 0).all()
    assert got[0].tolist() == [-torch.inf, 0, 0, -torch.inf, 0]
    assert got[1].tolist() == [1.5, 2.0, -0.5, -torch.inf, 1.0]


def test_threads_that_share_memory_wait_for_each_other(race_driver):
    logits, bias, tokens = sample_logits(3, 300, torch.float32, 0)
    state = torch.rand(3, 5)
    numbers = (3, 300, 50, 1.25, 0.0, 1)  # several rows of one block use the same shared memory
    run(race_driver, "online_softmax_update", 1, (logits, bias, state, tokens), *numbers)
    run(race_driver, "pairwise_ce", 2, sample_pairs(300, torch.float32), 300)
