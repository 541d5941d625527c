import multiprocessing

import numpy as np
import pytest
import torch
from torch import distributed as dist

from rlaif_pl import ops
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.rl.shaping import RewardShaping, final_scores, relative_scores, sequence_kl, whiten

REF = torch.tensor([[-1.0, -2.0, -1.5, -9.0], [-3.0, -1.0, -9.0, -9.0], [-9.0] * 4])
DIFF = torch.tensor([[0.5, -0.2, 0.1, 5.0], [1.0, 0.4, 5.0, 5.0], [5.0] * 4])
LOGPROBS = REF + DIFF
SCORES = torch.tensor([2.0, -1.0, 3.0])
FINISHED = torch.tensor([True, False, False])
# Responses of 3, 2 and 0 tokens; what stands in the padding must not matter.
IS_RESPONSE = torch.tensor([[True] * 3 + [False], [True] * 2 + [False] * 2, [False] * 4])


def token_rewards(scores, logprobs, ref_logprobs, is_response, finished, shaping):
    """Read off what training gives its op: without values and a discount, advantages are rewards."""
    lengths = is_response.sum(1)
    found = ops.kl_gae(
        logprobs,
        ref_logprobs,
        torch.zeros_like(logprobs),
        final_scores(scores, lengths, finished, shaping),
        lengths=lengths,
        kl_coef=shaping.reward_kl_coef,
        gamma=0.0,
    )
    return found.advantages


def shaped(**settings):
    return token_rewards(SCORES, LOGPROBS, REF, IS_RESPONSE, FINISHED, RewardShaping(**settings))


def whitened(values, is_real):
    """Whiten by sums taken here; training takes those of its op."""
    kept = values[is_real].double()
    return whiten(values, is_real, torch.stack([kept.sum(), kept.square().sum()]))


def test_token_rewards_by_hand():
    # beta 0.1: each token gets -0.1 (log pi - log ref), the last one (1 - 0.1) score as well.
    # Row 0: -0.05, 0.02, -0.01 + 0.9 * 2 = 1.79.
    # Row 1: -0.1, -0.04 + 0.9 * -1 - 0.3 = -1.24, cut by the limit: 0.3 off, not scaled.
    # Row 2 has no token to hold its score.
    expected = [[-0.05, 0.02, 1.79, 0.0], [-0.1, -1.24, 0.0, 0.0], [0.0] * 4]
    torch.testing.assert_close(shaped(kl_coef=0.1, missing_eos_penalty=0.3), torch.tensor(expected))


def test_an_unscaled_score_by_hand():
    # Row 0: -0.01 + 2 = 1.99. Row 1: -0.04 - 1 = -1.04.
    expected = [[-0.05, 0.02, 1.99, 0.0], [-0.1, -1.04, 0.0, 0.0], [0.0] * 4]
    torch.testing.assert_close(shaped(kl_coef=0.1, scale_score=False), torch.tensor(expected))


def test_without_a_kl_weight_only_the_score_is_left():
    expected = [[0.0, 0.0, 2.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0] * 4]
    torch.testing.assert_close(shaped(kl_coef=0.0), torch.tensor(expected))


def test_with_all_weight_on_the_kl_no_score_is_left():
    torch.testing.assert_close(shaped(kl_coef=1.0), -DIFF * IS_RESPONSE)


def test_the_sum_is_the_objective_of_the_sampled_text():
    # (1 - beta) r - beta log(pi / ref) of the whole text, row by row with a token.
    expected = 0.95 * SCORES - 0.05 * sequence_kl(LOGPROBS, REF, IS_RESPONSE)
    torch.testing.assert_close(shaped().sum(1)[:2], expected[:2])


@pytest.mark.parametrize("kl_coef", [-0.01, 1.01])
def test_a_kl_coefficient_outside_0_and_1_is_refused(kl_coef):
    with pytest.raises(ValueError, match=r"kl_coef in \[0, 1\]"):
        RewardShaping(kl_coef=kl_coef)


def test_sequence_kl_by_hand():
    # 0.5 - 0.2 + 0.1 = 0.4; 1 + 0.4 = 1.4; nothing.
    found = sequence_kl(LOGPROBS, REF, IS_RESPONSE)
    torch.testing.assert_close(found, torch.tensor([0.4, 1.4, 0.0]))


@pytest.mark.parametrize("lora", [None, Lora(r=4)])
@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_before_training_the_rewards_are_the_scores_alone(tiny_model_folder, lora, trunk_layers):
    options = BackboneOptions(str(tiny_model_folder), trunk_layers=trunk_layers)
    actor = ActorCritic(options, lora=lora)
    batch = actor.policy.encode(["the dog", "a cat sat"], [["a", "b c d"], ["cat", "the mat"]])
    reference, _ = actor.reference_pass(batch, None, SamplingParams(temperature=0.9))
    logprobs = actor.policy.logprobs(batch, None, SamplingParams(temperature=0.9)).detach()
    assert (sequence_kl(logprobs, reference, batch.is_response) == 0).all()
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0])
    everyone = torch.ones(4, dtype=torch.bool)
    settings = RewardShaping(scale_score=False)
    found = token_rewards(scores, logprobs, reference, batch.is_response, everyone, settings)
    expected = torch.zeros_like(found)
    expected[range(4), batch.lengths - 1] = scores
    assert torch.equal(found, expected)


def test_leave_one_out_by_hand():
    # 1 - (2 + 6) / 2 = -3, 2 - 3.5 = -1.5, 6 - 1.5 = 4.5; equal scores leave nothing.
    found = relative_scores(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3)
    torch.testing.assert_close(found, torch.tensor([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]))


def test_the_scale_of_grpo_by_hand():
    # Mean 3: -2, -1, 3. Variance of a sample (4 + 1 + 9) / 2 = 7. Equal scores leave nothing.
    scores = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    left = torch.tensor([-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(relative_scores(scores, 3, "group_mean"), left)
    scaled = relative_scores(scores, 3, "group_mean", "group_std")
    torch.testing.assert_close(scaled, left / (7**0.5 + 1e-4))
    # as TRL's GRPOTrainer writes it
    groups = scores.view(-1, 3)
    means, stds = (each.repeat_interleave(3) for each in (groups.mean(1), groups.std(1)))
    torch.testing.assert_close(scaled, (scores - means) / (stds + 1e-4))
    torch.testing.assert_close(relative_scores(scores, 3, "rloo", "group_std"), 1.5 * scaled)


def test_leaving_out_the_only_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 responses a prompt, got 1"):
        relative_scores(torch.ones(3), 1)


def test_whitening_is_numpys_over_real_entries():
    values = 30 + 4 * torch.randn(7, 5)
    is_real = torch.rand(7, 5) > 0.4
    values[~is_real] = 1e6
    kept = values[is_real].numpy()
    expected = np.zeros((7, 5), dtype=np.float32)
    expected[is_real.numpy()] = (kept - kept.mean()) / kept.std()
    found = whitened(values, is_real)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_whitening_by_hand():
    # 1, 3: mean 2, variance 1, so -1 and 1.
    values, is_real = torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(whitened(values, is_real), torch.tensor([[-1.0, 1.0, 0.0]]))


def test_whitening_of_nothing_or_of_equal_values_is_finite():
    values = torch.full((2, 3), 0.1)
    assert (whitened(values, torch.zeros(2, 3, dtype=torch.bool)) == 0).all()
    assert whitened(values, torch.ones(2, 3, dtype=torch.bool)).abs().max() < 1e-3


def whiten_on_a_rank(rank, store, values, is_real, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put((rank, whitened(values[rank], is_real[rank]).tolist()))
    dist.destroy_process_group()


def test_whitening_counts_the_entries_of_all_ranks(tmp_path):
    values, is_real = torch.randn(2, 3, 4), torch.rand(2, 3, 4) > 0.3
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(
            target=whiten_on_a_rank, args=(rank, tmp_path / "store", values, is_real, results)
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    together = whitened(values.view(6, 4), is_real.view(6, 4)).view(2, 3, 4)
    torch.testing.assert_close(torch.tensor([found[0], found[1]]), together)
