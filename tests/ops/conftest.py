"""Fixtures of the op tests: every test that asks for ``implementation`` runs twice."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from rlaif_pl import ops


@pytest.fixture(params=["compiled", "reference"])
def implementation(request, device) -> str:
    """Run the test on the compiled kernels, then on the reference, through one dispatcher."""
    wants_compiled = request.param == "compiled"
    if wants_compiled and ops.backend_of("gae", device.type) != "compiled":
        if os.environ.get("RLAIF_PL_REQUIRE_EXT") == "1":
            pytest.fail(f"RLAIF_PL_REQUIRE_EXT=1 but no compiled op serves {device.type}")
        pytest.skip(f"no compiled op serves {device.type}: build rlaif_pl._C")
    with nullcontext() if wants_compiled else ops.use_reference():
        for op in ("gae", "pairwise_ce_fwd"):
            assert ops.backend_of(op, device.type) == request.param
        yield request.param


def extended(tensor):
    """Bring a tensor to numpy's long double: 64 bits of mantissa on x86, a truth for float64."""
    return tensor.detach().double().cpu().numpy().astype(np.longdouble)


def gae_in_long_double(rewards, values, lengths, bootstrap, gamma, gae_lambda):
    """The recurrence in extended precision; zero from each row's length on."""
    rewards, values = extended(rewards), extended(values)
    advantages, returns = np.zeros_like(rewards), np.zeros_like(rewards)
    for n, length in enumerate(lengths.tolist()):
        carry, next_value = np.longdouble(0), extended(bootstrap)[n]
        for t in reversed(range(length)):
            delta = rewards[n, t] + gamma * next_value - values[n, t]
            carry = delta + np.longdouble(gamma) * gae_lambda * carry
            next_value = values[n, t]
            advantages[n, t], returns[n, t] = carry, carry + next_value
    return advantages, returns


def pairwise_ce_in_long_double(first, second, target, weight):
    """Loss and slope in extended precision, from log(exp(0) + exp(x)) rather than log1p."""
    margin, p, w = extended(first) - extended(second), extended(target), extended(weight)
    loss = w * (p * np.logaddexp(0, -margin) + (1 - p) * np.logaddexp(0, margin))
    return loss, w * (1 / (1 + np.exp(-margin)) - p)


def within_budget(got, plain, truth):
    """Check an op against the truth, with the plain version's own error as the yardstick.

    The op may err at most twice as much as the plain PyTorch version in the same dtype, plus one
    epsilon of the largest number involved.
    """
    assert got.shape == plain.shape == truth.shape
    if truth.size == 0:
        return
    one_epsilon = torch.finfo(got.dtype).eps * max(1.0, np.abs(truth).max())
    allowed = 2 * np.abs(extended(plain) - truth).max() + one_epsilon
    error = np.abs(extended(got) - truth).max()
    assert error <= allowed, f"error {error:.3g} exceeds the budget {allowed:.3g}"


@pytest.fixture
def assert_within_budget():
    """Hand out the error budget of the op tests."""
    return within_budget


@pytest.fixture
def exact_gae():
    """Hand out the truth that advantages and returns are held to."""
    return gae_in_long_double


@pytest.fixture
def exact_pairwise_ce():
    """Hand out the truth that loss and slope are held to."""
    return pairwise_ce_in_long_double
