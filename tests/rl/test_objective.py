"""Losses of whole small batches, worked by hand; two responses of 2 and 1 tokens."""

import math

import pytest
import torch

from rlaif_pl import ops
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.score import TokenLogprobs
from rlaif_pl.models.actor_critic import Evaluation
from rlaif_pl.rl.objective import Advantages, Objective
from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.rl.shaping import (
    RewardShaping,
    final_scores,
    relative_scores,
    repeated_share,
    whiten,
)

IS_SAMPLED = torch.tensor([[True, True], [True, False]])
SCORES = torch.tensor([1.0, 3.0])
RATIO = torch.tensor([[0.5, -0.3], [1.0, 7.0]])  # log pi - log ref; the 7 is padding
LOGPROBS = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]])
VALUES = torch.tensor([[0.2, 0.4], [1.0, 9.0]])
ENTROPY = torch.tensor([[1.0, 2.0], [3.0, 50.0]])
PLAIN = {"kl_coef": 0.1, "scale_score": True}


def rollout_of(finished=(True, True)):
    batch = assemble([[5, 6]], [[1, 2], [3]], pad=0)
    ref = LOGPROBS - RATIO
    return Rollout(batch, None, ["", ""], torch.tensor(finished), SCORES, ref, None)


def evaluation(values=VALUES, logprobs=LOGPROBS, entropy=ENTROPY):
    return Evaluation(TokenLogprobs(logprobs, entropy), values)


def run(objective, values=VALUES, finished=(True, True)):
    """Return targets, loss, parts, and the loss's gradients in logprobs, entropies and values."""
    logprobs, entropy = LOGPROBS.clone().requires_grad_(), ENTROPY.clone().requires_grad_()
    values = None if values is None else values.clone().requires_grad_()
    found = evaluation(values, logprobs, entropy)
    rollout = rollout_of(finished)
    targets = objective.targets(rollout, found)
    advantages = objective.scaled_advantages([targets], IS_SAMPLED)
    loss, parts = objective.loss(rollout, found, advantages, targets.returns, IS_SAMPLED)
    loss.backward()
    grads = [None if x is None else x.grad for x in (logprobs, entropy, values)]
    return targets, loss.item(), {k: v.item() for k, v in parts.items()}, grads


def test_kl_in_the_reward_by_hand():
    # Rewards: -0.05, 0.03 + 0.9 = 0.93; -0.1 + 2.7 = 2.6. Returns 0.88, 0.93; 2.6.
    # Advantages 0.68, 0.53; 1.6. Policy loss (0.68 + 1.06 + 0.8) / 3 = 2.54 / 3.
    # Value loss (0.4624 + 0.2809 + 2.56) / 3 = 3.3033 / 3, at 0.5.
    targets, loss, parts, grads = run(Objective(RewardShaping(**PLAIN), num_generations=2))
    torch.testing.assert_close(targets.returns, torch.tensor([[0.88, 0.93], [2.6, 0.0]]))
    torch.testing.assert_close(targets.advantages, torch.tensor([[0.68, 0.53], [1.6, 0.0]]))
    torch.testing.assert_close(targets.kl, torch.tensor([0.2, 1.0]))
    assert parts["policy_loss"] == pytest.approx(2.54 / 3)
    assert parts["value_loss"] == pytest.approx(3.3033 / 3)
    assert loss == pytest.approx((2.54 + 0.5 * 3.3033) / 3)
    torch.testing.assert_close(grads[0], -targets.advantages / 3)
    assert grads[1] is None
    # 0.5 * 2 (value - return) / 3; nothing after the last token
    expected = torch.tensor([[-0.68, -0.53], [-1.6, 0.0]]) / 3
    torch.testing.assert_close(grads[2], expected)


def test_an_unscaled_score_by_hand():
    # Returns -0.05 + 0.03 + 1 = 0.98, 1.03; -0.1 + 3 = 2.9.
    targets, *_ = run(Objective(RewardShaping(kl_coef=0.1, scale_score=False), num_generations=2))
    torch.testing.assert_close(targets.returns, torch.tensor([[0.98, 1.03], [2.9, 0.0]]))


def test_kl_in_the_loss_by_hand():
    # Returns are the scores: 1, 1; 3. Advantages 0.8, 0.6; 2. L_PG (0.8 + 1.2 + 1) / 3 = 1.
    # k2: (0.125 + 0.045 + 0.5) / 3 = 0.67 / 3. Value loss (0.64 + 0.36 + 4) / 3 = 5 / 3.
    # 0.9 * 1 + 0.1 * 0.67 / 3 + 0.5 * 5 / 3.
    objective = Objective(RewardShaping(**PLAIN, kl_placement="loss"), num_generations=2)
    targets, loss, parts, grads = run(objective)
    torch.testing.assert_close(targets.advantages, torch.tensor([[0.8, 0.6], [2.0, 0.0]]))
    torch.testing.assert_close(targets.kl, torch.tensor([0.2, 1.0]))
    assert parts["policy_loss"] == pytest.approx(1.0)
    assert parts["kl_loss"] == pytest.approx(0.67 / 3)
    assert loss == pytest.approx(0.9 + 0.067 / 3 + 2.5 / 3)
    # -0.9 advantage / 3 + 0.1 ratio / 3: -0.72 + 0.05, -0.54 - 0.03; -1.8 + 0.1, over 3
    torch.testing.assert_close(grads[0], torch.tensor([[-0.67, -0.57], [-1.7, 0.0]]) / 3)


def test_kl_in_the_loss_as_k3_and_without_scaling_by_hand():
    # k3 = e^-x - 1 + x at 0.5, -0.3, 1: 0.106531, 0.049859, 0.367879, sum 0.524269.
    shaping = RewardShaping(kl_coef=0.1, scale_score=False, kl_placement="loss", kl_estimator="k3")
    _, loss, parts, _ = run(Objective(shaping, num_generations=2))
    assert parts["kl_loss"] == pytest.approx(0.524269 / 3, abs=1e-6)
    assert loss == pytest.approx(1.0 + 0.0524269 / 3 + 2.5 / 3, abs=1e-6)


def test_lambda_and_gamma_by_hand():
    # Row 0, gamma 0.5, lambda 0.5: delta_1 = 0.93 - 0.4 = 0.53; delta_0 = -0.05 + 0.2 - 0.2 = -0.05;
    # A_0 = -0.05 + 0.25 * 0.53 = 0.0825. Returns A + V.
    advantages = Advantages(gamma=0.5, gae_lambda=0.5)
    targets, *_ = run(Objective(RewardShaping(**PLAIN), num_generations=2, advantages=advantages))
    torch.testing.assert_close(targets.advantages, torch.tensor([[0.0825, 0.53], [1.6, 0.0]]))
    torch.testing.assert_close(targets.returns, torch.tensor([[0.2825, 0.93], [2.6, 0.0]]))


def test_whitening_by_hand():
    # KL in the loss: advantages 0.8, 0.6, 2. Mean 3.4 / 3, variance 5 / 3 - (3.4 / 3)^2 = 0.382222.
    shaping = RewardShaping(**PLAIN, kl_placement="loss")
    _, _, parts, grads = run(
        Objective(shaping, num_generations=2, advantages=Advantages(whiten=True), vf_coef=0.0)
    )
    a, b, c = ((x - 3.4 / 3) / math.sqrt(0.3822222) for x in (0.8, 0.6, 2.0))
    assert parts["policy_loss"] == pytest.approx((a + 2 * b + 0.5 * c) / 3, abs=1e-5)
    expected = torch.tensor([[-0.9 * a + 0.05, -0.9 * b - 0.03], [-0.9 * c + 0.1, 0.0]]) / 3
    torch.testing.assert_close(grads[0], expected, rtol=0, atol=1e-5)


def test_entropy_and_value_coefficients_by_hand():
    # Mean entropy 2; 2.54 / 3 - 0.01 * 2 + 0.1 * 3.3033 / 3.
    objective = Objective(RewardShaping(**PLAIN), num_generations=2, ent_coef=0.01, vf_coef=0.1)
    _, loss, parts, grads = run(objective)
    assert parts["entropy"] == pytest.approx(2.0)
    assert loss == pytest.approx(2.54 / 3 - 0.02 + 0.33033 / 3)
    torch.testing.assert_close(grads[1], torch.tensor([[-0.01, -0.01], [-0.01, 0.0]]) / 3)


def test_penalties_by_hand():
    # Cut: 0.5 off. One token of at least 2: half of 0.8 off. 0.9, 2.7 - 0.5 - 0.4.
    shaping = RewardShaping(
        kl_coef=0.1, missing_eos_penalty=0.5, min_length=2, min_length_penalty=0.8
    )
    found = final_scores(SCORES, torch.tensor([2, 1]), torch.tensor([True, False]), shaping)
    torch.testing.assert_close(found, torch.tensor([0.9, 1.8]))


def test_repetition_is_taken_off_the_score_by_hand():
    # 5 6 7 5 6 7: four 3-grams, one said before. 1 2 3 and padding: one, not repeated.
    batch = assemble([[1, 2]], [[5, 6, 7, 5, 6, 7], [1, 2, 3]], pad=0)
    ended, ref = torch.tensor([True, True]), torch.zeros(2, 6)
    rollout = Rollout(batch, None, ["", ""], ended, SCORES, ref, None)
    found = evaluation(torch.zeros(2, 6), torch.zeros(2, 6), torch.zeros(2, 6))
    plain, less = (
        Objective(RewardShaping(kl_coef=0.0, repetition_penalty=weight), num_generations=2).targets(
            rollout, found
        )
        for weight in (0.0, 2.0)
    )
    expected = torch.tensor([[0.5], [0.0]]) * batch.is_response
    torch.testing.assert_close(plain.returns - less.returns, expected)


@pytest.mark.parametrize("rows", [[[4, 4, 4, 4, 4]], [[1, 2]], [[9]]])
def test_the_share_of_repeated_tokens_is_that_of_a_plain_count(rows):
    for row in rows:
        grams = [tuple(row[i : i + 3]) for i in range(len(row) - 2)]
        expected = 1 - len(set(grams)) / len(grams) if grams else 0.0
        padded = torch.tensor([row + [0, 0, 0, 0]])
        is_response = torch.arange(padded.shape[1])[None] < len(row)
        assert repeated_share(padded, is_response).item() == pytest.approx(expected)


def test_random_rows_repeat_as_a_plain_count_says():
    torch.manual_seed(0)
    tokens, lengths = torch.randint(0, 3, (50, 20)), torch.randint(0, 21, (50,))
    found = repeated_share(tokens, torch.arange(20) < lengths[:, None])
    for row, length, share in zip(tokens.tolist(), lengths.tolist(), found.tolist(), strict=True):
        grams = [tuple(row[i : i + 3]) for i in range(length - 2)]
        assert share == pytest.approx(1 - len(set(grams)) / len(grams) if grams else 0.0)


@pytest.mark.parametrize(
    "name", ["missing_eos_penalty", "min_length", "min_length_penalty", "repetition_penalty"]
)
def test_a_reward_for_a_fault_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of at least 0, got -1"):
        RewardShaping(**{name: -1})


@pytest.mark.parametrize(
    ("settings", "wrong", "said"),
    [
        (RewardShaping, {"kl_estimator": "k1"}, "kl_estimator to be 'k2' or 'k3', got 'k1'"),
        (RewardShaping, {"kl_placement": "Loss"}, "kl_placement to be 'reward' or 'loss', got 'L"),
        (RewardShaping, {"kl_placement": None}, "kl_placement to be 'reward' or 'loss', got None"),
        (Advantages, {"baseline": "grpo"}, "baseline to be 'rloo' or 'group_mean', got 'grpo'"),
        (Advantages, {"baseline": "rloo", "scale": "std"}, "scale to be 'group_std', got 'std'"),
        (Advantages, {"scale": "group_std"}, "scale=group_std with a baseline, got none; set"),
        (Advantages, {"loss": "mean"}, "'token_mean' or 'sequence_mean' or 'constant', got 'mean'"),
    ],
)
def test_choices_that_there_are_not_are_refused(settings, wrong, said):
    with pytest.raises(ValueError, match=said):
        settings(**wrong)


def test_a_group_baseline_beside_values_by_hand():
    # 1 - 3 = -2 and 2: final -1.8, 1.8. Returns -1.82, -1.77; 1.7.
    advantages = Advantages(baseline="rloo")
    targets, *_ = run(Objective(RewardShaping(**PLAIN), num_generations=2, advantages=advantages))
    torch.testing.assert_close(targets.returns, torch.tensor([[-1.82, -1.77], [1.7, 0.0]]))


def test_leave_one_out_without_values_by_hand():
    # Final 0.9 and 2.7 - 0.5 = 2.2, cut; less the other: -1.3, 1.3. With the KL still to come:
    # -1.3 - 0.02, -1.3 + 0.03; 1.3 - 0.1. Policy loss (-1.32 - 2.54 + 0.6) / 3.
    shaping = RewardShaping(**PLAIN, missing_eos_penalty=0.5)
    objective = Objective(shaping, num_generations=2, advantages=Advantages(baseline="rloo"))
    targets, loss, parts, grads = run(objective, values=None, finished=(True, False))
    torch.testing.assert_close(targets.advantages, torch.tensor([[-1.32, -1.27], [1.2, 0.0]]))
    assert loss == pytest.approx(-3.26 / 3)
    assert "value_loss" not in parts
    assert grads[2] is None


def test_grpo_by_hand():
    # KL in the loss, scores 1 and 3: mean 2, deviation of a sample 2^0.5. Both tokens of the first
    # response get -1 / 2^0.5 and the one of the second 1 / 2^0.5; each response counts the same:
    # (-(-1 - 2) / 2 x -0.7071 + 0.5 x 0.7071) / 2, and k2 ((0.125 + 0.045) / 2 + 0.5) / 2.
    shaping = RewardShaping(kl_coef=0.1, scale_score=False, kl_placement="loss")
    grpo = Advantages(baseline="group_mean", scale="group_std", loss="sequence_mean")
    run_grpo = Objective(shaping, num_generations=2, advantages=grpo)
    targets, loss, parts, grads = run(run_grpo, values=None)
    a = 1 / (math.sqrt(2) + 1e-4)
    torch.testing.assert_close(targets.advantages, torch.tensor([[-a, -a], [a, 0.0]]))
    assert parts["policy_loss"] == pytest.approx((-1.5 * a + 0.5 * a) / 2)
    assert parts["kl_loss"] == pytest.approx((0.085 + 0.5) / 2)
    assert loss == pytest.approx(-0.5 * a + 0.02925)
    expected = torch.tensor([[a + 0.05, a - 0.03], [2 * (-a + 0.1), 0.0]]) / 4
    torch.testing.assert_close(grads[0], expected)


def test_a_constant_divides_the_sum_of_tokens_by_hand():
    # Dr. GRPO: scores less their mean, -1 and 1; sum over tokens (-1 - 2) + 0.5, over 2 responses of 8.
    advantages = Advantages(baseline="group_mean", loss="constant")
    objective = Objective(
        RewardShaping(kl_coef=0.0), num_generations=2, advantages=advantages, max_new_tokens=8
    )
    _, loss, parts, grads = run(objective, values=None)
    assert loss == pytest.approx(-2.5 / 16)
    assert parts["entropy"] == pytest.approx(6 / 16)
    torch.testing.assert_close(grads[0], torch.tensor([[1.0, 1.0], [-1.0, 0.0]]) / 16)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_fused_targets_are_those_of_rewards_by_token_and_gae(gamma):
    torch.manual_seed(1)
    lengths = torch.tensor([9, 3, 12, 0, 1, 7])
    is_sampled = torch.arange(12) < lengths[:, None]
    logprobs, ref = torch.randn(2, 6, 12) - 3
    values, scores = torch.randn(6, 12), torch.randn(6)
    finished = torch.tensor([True, False] * 3)
    batch = assemble([[1, 2]] * 2, [[3] * length for length in lengths.tolist()], pad=0)
    rollout = Rollout(batch, None, [""] * 6, finished, scores, ref, None)
    shaping = RewardShaping(missing_eos_penalty=0.4, min_length=5, min_length_penalty=0.7)
    objective = Objective(shaping, num_generations=3, advantages=Advantages(gamma, 0.8, "rloo"))
    found = evaluation(values, logprobs, torch.zeros_like(logprobs))
    targets = objective.targets(rollout, found)
    left = relative_scores(scores, 3)
    final = final_scores(left, lengths, finished, shaping)
    rewards = -shaping.reward_kl_coef * (logprobs - ref) * is_sampled
    for row, length in enumerate(lengths.tolist()):
        if length:
            rewards[row, length - 1] += final[row]
    advantages, returns = ops.gae(rewards, values, lengths=lengths, gamma=gamma, gae_lambda=0.8)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(targets.advantages, advantages, **close)
    torch.testing.assert_close(targets.returns, returns, **close)
    rows = torch.tensor([True, True, False, True, True, False])
    counted = is_sampled & rows[:, None]
    moments = targets.moments[rows].sum(0)
    kept = advantages[counted]
    expected = (advantages - kept.mean()) / kept.std(correction=0) * counted
    whitened = whiten(targets.advantages, counted, moments)
    torch.testing.assert_close(whitened, expected, rtol=0, atol=1e-5)


def test_another_beta_changes_nothing_else():
    advantages = Advantages(gae_lambda=0.9)
    one, other = (
        Objective(RewardShaping(beta, min_length=3), num_generations=2, advantages=advantages)
        for beta in (0.1, 0.2)
    )
    assert one.at(0.2) == other


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_discount_or_decay_outside_0_to_1_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"expected {name} in \[0, 1\], got"):
        Advantages(**{name: value})


@pytest.mark.parametrize("name", ["ent_coef", "vf_coef"])
def test_a_negative_weight_of_a_loss_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of at least 0, got -1"):
        Objective(**{name: -1})
