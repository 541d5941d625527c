"""The kl_gae op: by hand, against the steps it fuses, and its contract."""

import pytest
import torch

from rlaif_pl import ops
from rlaif_pl.rl.shaping import sequence_kl, whiten

pytestmark = pytest.mark.usefixtures("implementation")

SHAPES = [(1, 1), (3, 7), (33, 64), (2, 1025), (3, 2500), (0, 5), (5, 0)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sample(n, t, device, dtype=torch.float32):
    policy, ref, values = torch.randn(3, n, t, device=device).to(dtype)
    lengths = torch.randint(0, t + 1, (n,), device=device)
    lengths[: n // 3] = t
    scores, bootstrap = torch.randn(2, n, device=device).to(dtype)
    return policy, ref, values, scores, lengths, bootstrap


def run(args, kl_coef=0.1, gamma=0.97, gae_lambda=0.9):
    policy, ref, values, scores, lengths, bootstrap = args
    return ops.kl_gae(
        policy,
        ref,
        values,
        scores,
        lengths=lengths,
        bootstrap=bootstrap,
        kl_coef=kl_coef,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )


def test_two_steps_by_hand(device):
    # KL terms 1 and -2, coefficient 0.5: rewards -0.5 and 1 + score 3 = 4; values 1 and 2; gamma 1,
    # gae_lambda 0.5.
    # delta_1 = 4 - 2 = 2; A_1 = 2, return 4; delta_0 = -0.5 + 2 - 1 = 0.5; A_0 = 0.5 + 1, return 2.5
    row = [[0.0, -3.0, 9.0]], [[-1.0, -1.0, 9.0]], [[1.0, 2.0, 9.0]]
    policy, ref, values = (torch.tensor(x, device=device) for x in row)
    scores, lengths = torch.tensor([3.0], device=device), torch.tensor([2], device=device)
    got = ops.kl_gae(policy, ref, values, scores, lengths=lengths, kl_coef=0.5, gae_lambda=0.5)
    assert got.advantages.tolist() == [[1.5, 2.0, 0.0]]
    assert got.returns.tolist() == [[2.5, 4.0, 0.0]]
    assert got.kl.tolist() == [-1.0]
    assert got.moments.tolist() == [[3.5, 1.5**2 + 4]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_the_steps_it_fuses(shape, dtype, device):
    args = sample(*shape, device, dtype)
    policy, ref, values, scores, lengths, bootstrap = (
        x.double() if x.is_floating_point() else x for x in args
    )
    is_valid = torch.arange(shape[1], device=device) < lengths[:, None]
    rewards = -0.1 * (policy - ref) * is_valid
    for row, length in enumerate(lengths.tolist()):
        if length:
            rewards[row, length - 1] += scores[row]
    advantages, returns = ops.gae(
        rewards, values, lengths=lengths, bootstrap=bootstrap, gamma=0.97, gae_lambda=0.9
    )
    got = run(args)
    eps = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
    close = {"rtol": eps[dtype], "atol": eps[dtype]}
    torch.testing.assert_close(got.advantages.double(), advantages, **close)
    torch.testing.assert_close(got.returns.double(), returns, **close)
    loose = {"rtol": eps[dtype], "atol": 10 * eps[dtype]}
    torch.testing.assert_close(got.kl.double(), sequence_kl(policy, ref, is_valid), **loose)
    sums = torch.stack([advantages.sum(1), advantages.square().sum(1)], 1)
    loose = {"rtol": 10 * eps[dtype], "atol": 100 * eps[dtype]}
    torch.testing.assert_close(got.moments, sums, **loose)


def test_moments_whiten_as_whiten_does(device):
    args = sample(9, 50, device, torch.float64)
    got = run(args)
    counted = torch.tensor([True] * 7 + [False] * 2, device=device)  # fillers do not count
    is_valid = torch.arange(50, device=device) < args[4][:, None]
    is_real = is_valid & counted[:, None]
    kept = got.advantages[is_real]
    want = (got.advantages - kept.mean()) / kept.std(correction=0) * is_real
    found = whiten(got.advantages, is_real, got.moments[counted].sum(0))
    torch.testing.assert_close(found, want)


def test_padding_has_no_effect(device):
    args = list(sample(6, 40, device))
    want = run(args)
    is_pad = torch.arange(40, device=device) >= args[4][:, None]
    for k in range(3):
        args[k] = args[k].masked_fill(is_pad, float("nan"))
    for name in ("advantages", "returns", "kl", "moments"):
        torch.testing.assert_close(getattr(run(args), name), getattr(want, name), rtol=0, atol=0)


def test_accepts_strided_input(device):
    args = sample(5, 30, device)
    strided = [torch.stack([x, x], -1)[..., 0] for x in args]
    assert not any(x.is_contiguous() for x in strided)
    for name in ("advantages", "returns", "kl", "moments"):
        got, want = getattr(run(strided), name), getattr(run(args), name)
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 7), (0, 5), (5, 0)], ids=str)
def test_registration(shape, device):
    args = sample(*shape, device)
    args[0].requires_grad_()
    torch.library.opcheck(torch.ops.rlaif_pl.kl_gae.default, (*args, 0.1, 0.9, 0.9))
    found = run(args)
    for name in ("advantages", "returns", "kl", "moments"):
        assert not getattr(found, name).requires_grad


def test_compiles_without_graph_breaks(device):
    args = sample(4, 9, device)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(args).advantages, run(args).advantages)


@pytest.mark.parametrize(
    ("position", "broken", "message"),
    [
        (0, torch.zeros(3), r"logprobs must be \(N, T\) in .* got \(3,\)"),
        (1, torch.zeros(3, 5), r"ref_logprobs must be \(3, 4\) in .* got \(3, 5\)"),
        (2, torch.zeros(3, 4).double(), "values must be .* in float32 on .* in float64"),
        (3, torch.zeros(4), r"scores must be \(3,\) in float32 .* got \(4,\)"),
        (4, torch.zeros(3), "lengths must be .* in int64 on .* in float32"),
        (4, torch.tensor([0, 1, 5]), r"lengths must lie in \[0, 4\], got 5 at index 2"),
        (5, torch.zeros(2), r"bootstrap must be \(3,\) in float32 .* got \(2,\)"),
    ],
)
def test_refuses(position, broken, message, device):
    if device.type != "cpu" and "lie in" in message:
        pytest.skip("values are looked at on the CPU only")
    args = list(sample(3, 4, device))
    args[position] = broken.to(device)
    with pytest.raises(ValueError, match=f"kl_gae: {message}"):
        run(args)


def test_refuses_a_negative_beta(device):
    with pytest.raises(ValueError, match="kl_coef must be at least 0"):
        run(sample(3, 4, device), kl_coef=-0.1)
