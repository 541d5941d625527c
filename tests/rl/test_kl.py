from dataclasses import replace

import pytest
import torch

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.rl.generate import generate
from rlaif_pl.rl.kl import AdaptiveKL, KLController, kl_by_prompt, token_kl
from rlaif_pl.types import Prompt


def test_greedy_texts_say_nothing_of_a_kl(policy_of):
    policy, other = policy_of(), policy_of("mistral")
    prompts = [Prompt("a cat", "p0"), Prompt("the dog sat", "p1")]
    params = SamplingParams(n=2, max_new_tokens=4, seed=3)
    tokens = generate(policy, prompts, params).tokens
    assert kl_by_prompt(policy, policy, prompts, tokens, params) == pytest.approx([0, 0], abs=1e-4)
    assert kl_by_prompt(policy, other, prompts, tokens, params) != pytest.approx([0, 0], abs=0.1)
    assert kl_by_prompt(policy, other, prompts, tokens, replace(params, temperature=0)) is None


def test_estimators_by_hand():
    # Log-ratio ln 2: k2 = 0.480453 / 2, k3 = 1/2 - 1 + ln 2; -ln 2: the same k2, k3 = 2 - 1 - ln 2.
    logprobs, ref = torch.tensor([[2.0, 1.0]]).log(), torch.tensor([[1.0, 2.0]]).log()
    k2, k3 = (token_kl(logprobs, ref, name) for name in ("k2", "k3"))
    torch.testing.assert_close(k2, torch.tensor([[0.240227, 0.240227]]))
    torch.testing.assert_close(k3, torch.tensor([[0.193147, 0.306853]]))


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_equal_policies_have_a_kl_of_exactly_0_and_no_pull(estimator):
    logprobs = torch.randn(3, 4, requires_grad=True)
    kl = token_kl(logprobs, logprobs.detach().clone(), estimator)
    kl.sum().backward()
    assert not kl.any()
    assert not logprobs.grad.any()


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_gradients_on_average_are_those_of_the_exact_kls(estimator):
    logits, ref_logits = torch.randn(2, 7, dtype=torch.float64)
    logits.requires_grad_()
    policy, ref = logits.log_softmax(0), ref_logits.log_softmax(0)
    probabilities = policy.exp().detach()
    mean = (probabilities * token_kl(policy, ref, estimator)).sum()
    (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
    forward = (policy.exp() * (policy - ref)).sum()
    exact = forward if estimator == "k2" else (ref.exp() * (ref - policy)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    torch.testing.assert_close(found, expected)
    if estimator == "k3":
        torch.testing.assert_close(mean, forward)


def test_the_coefficient_follows_its_target_by_hand():
    control = KLController(0.05, AdaptiveKL(target=6.0))
    control.update(9.0)  # error 0.5, held at 0.2: 0.05 * 1.02
    assert control.kl_coef == pytest.approx(0.051)
    control.update(5.4)  # error -0.1: 0.051 * 0.99
    assert control.kl_coef == pytest.approx(0.05049)
    control.update(-20.0)  # held at -0.2: 0.05049 * 0.98
    assert control.kl_coef == pytest.approx(0.0494802)
    control.update(6.0)
    assert control.kl_coef == pytest.approx(0.0494802)


def test_gain_and_limit_by_hand():
    control = KLController(0.1, AdaptiveKL(target=2.0, gain=0.5, limit=1.0))
    control.update(3.0)  # error 0.5: 0.1 * 1.25
    assert control.kl_coef == pytest.approx(0.125)


def test_the_coefficient_stays_at_1_or_below_and_takes_in_no_nan():
    control = KLController(0.99, AdaptiveKL(target=1.0))
    for kl in (50.0, 50.0, float("nan"), float("inf")):
        control.update(kl)
    assert control.kl_coef == 1.0


def test_without_a_rule_it_stays():
    control = KLController(0.0)
    control.update(100.0)
    assert control.kl_coef == 0.0


def test_adapting_from_0_is_refused():
    with pytest.raises(ValueError, match="above 0 with adaptive_kl, got 0"):
        KLController(0.0, AdaptiveKL(target=1.0))


@pytest.mark.parametrize("name", ["target", "gain", "limit"])
def test_numbers_of_the_rule_are_above_0(name):
    with pytest.raises(ValueError, match=rf"adaptive_kl\.{name} above 0, got 0"):
        AdaptiveKL(**{"target": 1.0, name: 0})


def test_a_step_that_makes_the_coefficient_negative_is_refused():
    with pytest.raises(ValueError, match=r"below 1, got 5.0 \* 0.2"):
        AdaptiveKL(target=1.0, gain=5.0)
