"""What a labeler's rewards cost is logged with every step."""

import pytest
import torch

from rlaif_pl.labeling import LabelerReward, ScoreLabeler
from rlaif_pl.labeling.calls import Response
from rlaif_pl.training.callbacks import RewardCost


class Grader:
    """Gives every text the same grade for 5 tokens and a cent."""

    fingerprint = "grader"

    def answer(self, calls, done):
        for place, _ in enumerate(calls):
            done(place, Response(logprobs=(-1.0,) * 10, read=5, cost_usd=0.01))


def test_calls_tokens_and_money_are_logged(tiny, fit, tmp_path):
    class Scored(tiny):
        """Asks for two rewards a step, one of them asked for before."""

        def training_step(self, batch):
            self.reward.score(["p", "p"], ["same", f"new {self.global_step}"])
            return super().training_step(batch)

    module = Scored()
    module.reward = LabelerReward(ScoreLabeler(Grader()), replies=str(tmp_path / "r.sqlite"))
    metrics = fit(module, callbacks=[RewardCost()], max_steps=3).callback_metrics
    found = {name: value.item() for name, value in metrics.items() if "labeler_reward/" in name}
    assert found["labeler_reward/run_responses"] == 6
    assert found["labeler_reward/calls"] == found["labeler_reward/run_calls"] == 4
    assert found["labeler_reward/read_tokens"] == 20
    assert found["labeler_reward/paid_usd"] == pytest.approx(0.04)


def test_another_reward_is_refused(tiny, fit):
    module = tiny()
    module.reward = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="LabelerReward, got Linear; leave this callback out"):
        fit(module, callbacks=[RewardCost()])
