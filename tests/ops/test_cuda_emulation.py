"""The GPU kernels without a GPU: their source runs as host C++ under sanitizers.

Address and undefined-behavior sanitizers watch every access; the numbers are held to the error
budget of the reference.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rlaif_pl.ops import reference

HERE = Path(__file__).parent / "cuda_emulation"
COMPILER = os.environ.get("CXX", "c++")
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
    done = subprocess.run(
        [str(driver), op, NAMES[first.dtype], str(blocks), *map(str, numbers)],
        input=b"".join(array.contiguous().numpy().tobytes() for array in arrays),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    flat = torch.frombuffer(bytearray(done.stdout), dtype=first.dtype)
    return flat.view(2, *first.shape).unbind()


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
    plain = reference.pairwise_ce_fwd(*args)
    truth = exact_pairwise_ce(*args)
    for one, same_dtype, true in zip(got, plain, truth, strict=True):
        assert_within_budget(one, same_dtype, true)
