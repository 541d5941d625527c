"""The gae op: hand-worked values, independent peers, properties, and the edges."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from rlaif_pl import ops
from rlaif_pl.ops import reference

pytestmark = pytest.mark.usefixtures("implementation")

SHAPES = [(1, 1), (3, 7), (129, 64), (2, 1025), (0, 5), (5, 0)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sample(n, t, device, dtype=torch.float32):
    """Draw rewards, values, lengths (0 and t included where they fit) and bootstrap."""
    rewards = torch.randn(n, t, device=device, dtype=dtype)
    values = torch.randn(n, t, device=device, dtype=dtype)
    lengths = torch.randint(0, t + 1, (n,), device=device)
    lengths[: n // 3] = t
    return rewards, values, lengths, torch.randn(n, device=device, dtype=dtype)


def closed_form(rewards, values, lengths, bootstrap, gamma, gae_lambda):
    """Peer: A[t] = sum over k of (gamma gae_lambda)^k delta[t + k], as one float64 matrix product."""
    advantages, returns = np.zeros(rewards.shape), np.zeros(rewards.shape)
    for n, length in enumerate(lengths.tolist()):
        r, v = rewards[n, :length].double().numpy(), values[n, :length].double().numpy()
        delta = r + gamma * np.append(v[1:], float(bootstrap[n]))[:length] - v
        ahead = np.subtract.outer(-np.arange(length), -np.arange(length))  # k = column - row
        decays = np.where(ahead >= 0, float(gamma * gae_lambda) ** np.abs(ahead), 0.0)
        advantages[n, :length] = decays @ delta
        returns[n, :length] = advantages[n, :length] + v
    return torch.from_numpy(advantages), torch.from_numpy(returns)


def run(rewards, values, lengths, bootstrap, gamma, gae_lambda):
    return ops.gae(
        rewards, values, lengths=lengths, bootstrap=bootstrap, gamma=gamma, gae_lambda=gae_lambda
    )


def test_two_steps_by_hand(device):
    # delta_1 = 1 + 0.5*4 - 2 = 1;  A_1 = 1;                        return_1 = 1 + 2 = 3
    # delta_0 = 0 + 0.5*2 - 3 = -2; A_0 = -2 + 0.5*0.5*1 = -1.75;   return_0 = -1.75 + 3 = 1.25
    rewards = torch.tensor([[0.0, 1.0]], device=device)
    values = torch.tensor([[3.0, 2.0]], device=device)
    bootstrap = torch.tensor([4.0], device=device)
    advantages, returns = ops.gae(rewards, values, bootstrap=bootstrap, gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-1.75, 1.0]], device=device))
    torch.testing.assert_close(returns, torch.tensor([[1.25, 3.0]], device=device))


def test_ragged_rows_by_hand(device):
    # Row 0 ends after one step (terminal): A_0 = 5 - 2 = 3, return 5; its padding stays zero.
    # Row 1 is cut after two, bootstrap 1, gamma = gae_lambda = 1:
    #   delta_1 = 1 + 1 - 4 = -2; delta_0 = 0 + 4 - 3 = 1; A = (1 - 2, -2); returns = (2, 2)
    rewards = torch.tensor([[5.0, 9.0], [0.0, 1.0]], device=device)
    values = torch.tensor([[2.0, 9.0], [3.0, 4.0]], device=device)
    advantages, returns = ops.gae(
        rewards,
        values,
        lengths=torch.tensor([1, 2], device=device),
        bootstrap=torch.tensor([0.0, 1.0], device=device),
        gae_lambda=1.0,
    )
    torch.testing.assert_close(advantages, torch.tensor([[3.0, 0.0], [-1.0, -2.0]], device=device))
    torch.testing.assert_close(returns, torch.tensor([[5.0, 0.0], [2.0, 2.0]], device=device))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_closed_form(shape, device):
    args = sample(*shape, device, torch.float64)
    want = closed_form(*(a.cpu() for a in args), 0.97, 0.9)
    for got, expected in zip(run(*args, 0.97, 0.9), want, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-10, atol=1e-10)


def test_matches_a_linear_filter(device):
    # scipy's y[t] = x[t] + c y[t - 1] is the recurrence read from the end.
    rewards, values, _, bootstrap = sample(6, 300, device, torch.float64)
    after = torch.cat([values[:, 1:], bootstrap[:, None]], dim=1)
    delta = (rewards + 0.99 * after - values).cpu().numpy()
    want = lfilter([1.0], [1.0, -0.99 * 0.95], delta[:, ::-1])[:, ::-1].copy()
    got, _ = ops.gae(rewards, values, bootstrap=bootstrap, gamma=0.99, gae_lambda=0.95)
    torch.testing.assert_close(got.cpu(), torch.from_numpy(want), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_within_budget(shape, dtype, device, exact_gae, assert_within_budget):
    args = sample(*shape, device, dtype)
    truth = exact_gae(*args, 0.99, 0.95)
    plain = reference.gae(*args, 0.99, 0.95)
    for got, same_dtype, true in zip(run(*args, 0.99, 0.95), plain, truth, strict=True):
        assert got.dtype == dtype
        assert got.is_contiguous()
        assert_within_budget(got, same_dtype, true)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    n=st.integers(0, 9),
    t=st.integers(0, 70),
    gamma=st.floats(0, 1, allow_subnormal=False),
    gae_lambda=st.floats(0, 1, allow_subnormal=False),
)
def test_any_shape_and_coefficient(n, t, gamma, gae_lambda, device):
    args = sample(n, t, device, torch.float64)
    want = closed_form(*(a.cpu() for a in args), gamma, gae_lambda)
    for got, expected in zip(run(*args, gamma, gae_lambda), want, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_lambda_one_gives_monte_carlo_returns(device):
    rewards, values, _, _ = sample(4, 33, device, torch.float64)
    _, returns = ops.gae(rewards, values, gae_lambda=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


def test_lambda_zero_gives_one_step_errors(device):
    rewards, values, _, bootstrap = sample(4, 33, device, torch.float64)
    advantages, _ = ops.gae(rewards, values, bootstrap=bootstrap, gamma=0.9, gae_lambda=0.0)
    after = torch.cat([values[:, 1:], bootstrap[:, None]], dim=1)
    torch.testing.assert_close(advantages, rewards + 0.9 * after - values)


def test_a_perfect_critic_leaves_no_advantage(device):
    rewards = torch.randn(3, 20, device=device, dtype=torch.float64)
    values = rewards.flip(1).cumsum(1).flip(1)
    advantages, _ = ops.gae(rewards, values)
    torch.testing.assert_close(advantages, torch.zeros_like(rewards))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_has_no_effect(garbage, device):
    rewards, values, lengths, bootstrap = sample(9, 40, device)
    before = run(rewards, values, lengths, bootstrap, 0.99, 0.95)
    is_pad = torch.arange(40, device=device) >= lengths[:, None]
    rewards[is_pad], values[is_pad] = garbage, garbage
    for got, clean in zip(
        run(rewards, values, lengths, bootstrap, 0.99, 0.95), before, strict=True
    ):
        torch.testing.assert_close(got, clean, rtol=0, atol=0)
        assert (got[is_pad] == 0).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 31, 32, 50])
def test_a_broken_reward_reaches_only_earlier_steps_of_its_row(broken, step, device):
    rewards, values, _, bootstrap = sample(3, 70, device)
    before, _ = ops.gae(rewards, values, bootstrap=bootstrap, gamma=0.9)
    rewards[1, step] = broken
    after, _ = ops.gae(rewards, values, bootstrap=bootstrap, gamma=0.9)
    assert not after[1, : step + 1].isfinite().any()
    torch.testing.assert_close(after[1, step + 1 :], before[1, step + 1 :], rtol=0, atol=0)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=0)


def test_rows_of_length_zero_ignore_their_bootstrap(device):
    rewards, values, _, bootstrap = sample(2, 5, device)
    bootstrap[:] = float("nan")
    lengths = torch.zeros(2, dtype=torch.int64, device=device)
    for out in ops.gae(rewards, values, lengths=lengths, bootstrap=bootstrap):
        assert (out == 0).all()


def test_a_mask_means_the_same_as_its_lengths(device):
    rewards, values, lengths, bootstrap = sample(9, 12, device)
    is_response = torch.arange(12, device=device) < lengths[:, None]
    want = ops.gae(rewards, values, lengths=lengths, bootstrap=bootstrap)
    got = ops.gae(rewards, values, is_response=is_response, bootstrap=bootstrap)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_accepts_strided_input(device):
    packed = sample(6, 8, device)
    strided = [a.T.contiguous().T if a.dim() == 2 else torch.stack([a, a], 1)[:, 0] for a in packed]
    assert not any(a.is_contiguous() for a in strided)
    got, want = run(*strided, 0.9, 0.8), run(*packed, 0.9, 0.8)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_leaves_its_inputs_alone(device):
    args = sample(4, 6, device)
    copies = [a.clone() for a in args]
    run(*args, 0.9, 0.8)
    torch.testing.assert_close(list(args), copies, rtol=0, atol=0)


def test_targets_carry_no_gradient(device):
    rewards, values, lengths, bootstrap = (
        a.requires_grad_() if a.is_floating_point() else a for a in sample(3, 5, device)
    )
    direct = torch.ops.rlaif_pl.gae.default(rewards, values, lengths, bootstrap, 0.9, 0.8)
    for out in (*run(rewards, values, lengths, bootstrap, 0.9, 0.8), *direct):
        assert not out.requires_grad
