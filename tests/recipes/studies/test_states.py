"""Kept trunk states give the rewards of a plain forward over the text."""

import pytest
import torch

from rlaif_pl.recipes.studies.states import SHARD, StateCache


def rewards_plain(reward, pairs):
    """Score each text alone, as users of a reward do."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    return reward.score(prompts, texts)


@pytest.mark.parametrize("pooling", ["eos", "mean"])
def test_rewards_from_kept_states_are_those_of_a_plain_forward(
    make_reward, judged, tmp_path, pooling
):
    reward = make_reward(pooling=pooling)
    cache = StateCache(reward, judged, tmp_path)
    assert cache.fill() == len(judged)
    rows = [7, 0, 12, 3]  # lengths mixed, so that padding differs from when the states were made
    batch, below = cache.batch(rows)
    with torch.no_grad():
        kept = reward.rewards(batch, below)
    torch.testing.assert_close(
        kept, rewards_plain(reward, [judged[r] for r in rows]), atol=1e-5, rtol=0
    )


def test_gradients_flow_above_the_kept_states_only(filled):
    reward = filled.reward
    batch, below = filled.batch([0, 5])
    reward.rewards(batch, below).sum().backward()
    trained = {name for name, p in reward.named_parameters() if p.grad is not None}
    assert "head.weight" in trained
    assert any("lora_B" in name for name in trained)
    assert not any(".trunk." in name for name in trained)


def test_states_are_made_once(filled, make_reward, judged):
    again = StateCache(make_reward(pooling="mean"), judged, filled.folder)
    assert again.fill() == 0
    assert again.bytes > 0


def test_a_killed_run_makes_only_what_is_missing(make_reward, judged, tmp_path):
    many = [*judged, *judged, *judged][: SHARD + 3]
    cache = StateCache(make_reward(), many, tmp_path)
    cache.fill()
    cache.shards[1].unlink()
    again = StateCache(make_reward(), many, tmp_path)
    assert again.fill() == 3


def test_other_texts_and_other_trunks_are_kept_apart(make_reward, judged, tmp_path):
    keys = {
        StateCache(make_reward(), judged, tmp_path).key,
        StateCache(make_reward(), judged[:-1], tmp_path).key,
        StateCache(make_reward(trunk=1), judged, tmp_path).key,
    }
    assert len(keys) == 3


def test_a_model_without_trunk_is_refused(make_reward, judged, tmp_path):
    with pytest.raises(ValueError, match="trunk_layers"):
        StateCache(make_reward(trunk=0), judged, tmp_path)
