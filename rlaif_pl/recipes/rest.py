"""Reinforced Self-Training (ReST; Gulcehre et al. 2023, arXiv 2308.08998, algorithm 1).

::

    D scored by R
    for g = 1..G:                                  Grow
        S = samples of the policy to the prompts of D, scored by R
        for i = 1..I:                              Improve
            keep the rows of D + S that reach threshold i
            fit the policy to them by likelihood, at a rate that falls with i
            stop where the validation reward no longer rises; what did not raise it is not kept

Only the last policy that was kept feeds the next Grow. Left out: other losses than the likelihood
(the paper found none better), and the choice among checkpoints within one Improve by their reward.

::

    <out>/start/                 demonstrations.jsonl; validation.jsonl: samples of the first policy
    <out>/grow-<g>/              samples.jsonl, each sample with where it came from
    <out>/improve-<g>-<i>/       kept.jsonl, config.yaml and policy/ of the fit, validation.jsonl
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.engine.sampling import sample_seed
from rlaif_pl.models.backbone import fingerprint_of
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.model_info import weights_digest
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.text_format import format_of
from rlaif_pl.recipes.rest_improve import Improve, fit_config, select
from rlaif_pl.recipes.rest_parts import Parts, Result
from rlaif_pl.recipes.rest_samples import (
    DEMONSTRATION,
    Drawing,
    ScoredResponse,
    draw_samples,
    read_samples,
    score_demonstrations,
)
from rlaif_pl.rl.function_reward import WeightedRewards, settings_of
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import Template, word_count
from rlaif_pl.types import Prompt, Reward

logger = logging.getLogger(__name__)
Fit = Callable[[dict[str, object], Path], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One Improve step, or the start."""

    grow: int  # grow step, from 1; 0 for the start
    improve: int  # improve step within it, from 1; 0 for the start
    is_kept: bool  # whether its policy was kept
    # what was measured: `reward` (with limits), `words` and `unfinished` on the validation prompts;
    # `kept`, `demonstrations` and `lr` of the fit
    result: Result


@dataclass(eq=False)
class Rest:
    """The loop.

    Raises:
        ValueError: A count is below 1, there is no validation prompt, or one is trained on; or a
            prompt lacks a column that the reward requires.
    """

    policy: BackboneOptions  # to start from, fitted to the demonstrations
    train: Sequence[Prompt]  # prompts to sample for; their references are the demonstrations D
    validation: Sequence[Prompt]  # held-out prompts
    reward: Reward  # scores samples and demonstrations
    out: Path  # folder of the loop
    fit: Fit  # runs the fit of a config in a folder; raises where it fails
    grow_steps: int = 1  # `G`, at least 1
    drawing: Drawing = Drawing()  # how samples are drawn
    improve: Improve = field(default_factory=Improve)  # how the policy is fitted to them
    template: Template | None = None  # how prompts and responses are written; None: as the policy's
    validation_samples: int = 2  # of each validation prompt, at least 1
    seed: int = 0  # of samples, adapters and order

    def __post_init__(self) -> None:
        shared = {row.group for row in self.train} & {row.group for row in self.validation}
        counts = self.grow_steps, self.validation_samples
        if min(counts) < 1 or not self.validation or shared:
            raise ValueError(
                "expected at least one Grow step, one sample of each validation prompt, and "
                f"validation prompts apart from the training ones, got {counts[0]}, {counts[1]}, "
                f"{len(self.validation)} prompts of which {len(shared)} are shared"
            )
        for rows in (self.train, self.validation):
            check_columns(self.reward, rows)
        self.policy.check_exists()
        name, revision = self.policy.name, self.policy.revision
        self.resolved_template = format_of(name, revision, template=self.template).template
        self.origin = "start"
        sampling = dataclasses.replace(self.drawing.sampling, n=self.validation_samples)
        self.judging = dataclasses.replace(self.drawing, sampling=sampling)
        self.parts = Parts(self.out, self._dependencies())

    def run(self) -> list[Step]:
        """Run what is not finished; afterwards ``policy`` names the policy that was kept last."""
        start, result = self.parts.run("start", {}, self._start)
        steps, best = [Step(0, 0, True, result)], result["reward"]
        demonstrations = read_samples(start / "demonstrations.jsonl")
        for grow in range(1, self.grow_steps + 1):
            before, given = self.policy, {"policy": self.origin}
            folder, _ = self.parts.run(f"grow-{grow}", given, partial(self._grow, number=grow))
            rows = [*demonstrations, *read_samples(folder / "samples.jsonl")]
            for step in self._improve_steps(grow, rows, best):
                steps.append(step)
                best = step.result["reward"] if step.is_kept else best
            if self.policy is before:
                logger.warning("ReST: no Improve of Grow %d raised the validation reward", grow)
                break
        return steps

    def _improve_steps(
        self, grow: int, rows: Sequence[ScoredResponse], best: float
    ) -> Iterator[Step]:
        """Run the Improve steps of a Grow step, up to the first that is not kept."""
        for number in range(1, len(self.improve.levels) + 1):
            folder, result = self._improve(grow, number, rows)
            is_kept = self.improve.is_rise(best, result["reward"])
            logger.info(
                "Grow %d, Improve %d: %d rows, validation reward %.3f to %.3f, %s",
                *(grow, number, result["kept"], best, result["reward"]),
                "kept" if is_kept else "not kept",
            )
            if is_kept:
                best, self.policy = result["reward"], self._trained(folder)
                self.origin = folder.name
            yield Step(grow, number, is_kept, result)
            if not is_kept:
                return

    def _start(self, folder: Path) -> Result:
        rows = score_demonstrations(
            folder / "demonstrations.jsonl", self.reward, self.train, self.seed
        )
        mean = math.fsum(row.reward for row in rows) / max(len(rows), 1)
        return {"demonstration_reward": mean} | self._judge(folder, self.policy)

    def _grow(self, folder: Path, number: int) -> Result:
        rows = draw_samples(
            folder / "samples.jsonl",
            load_policy(self.policy, self.resolved_template).to(resolve_device()),
            self.reward,
            self.train,
            self.drawing,
            grow=number,
            seed=sample_seed(self.seed, "grow", number),
        )
        return {"samples": float(len(rows))} | summary(rows, self.seed)

    def _improve(
        self, grow: int, number: int, rows: Sequence[ScoredResponse]
    ) -> tuple[Path, Result]:
        """Fit the current policy to what passes the filter, and judge what comes of it."""
        level = self.improve.levels[number - 1]
        kept = select(rows, self.improve, level)

        def work(folder: Path) -> Result:
            data = folder / "kept.jsonl"
            asked = {row.text: row.text for row in self.train}  # with their turns, which no row has
            write_prompts(
                data, [Prompt(asked[row.prompt], row.group, row.response) for row in kept]
            )
            template = self.resolved_template
            config = fit_config(
                self.policy, data, folder, self.improve, template, number, self.seed
            )
            if not (folder / "policy" / "config.json").is_file():  # written at once, at the end
                self.fit(config, folder)
            return {
                "kept": float(len(kept)),
                "demonstrations": float(sum(row.policy == DEMONSTRATION for row in kept)),
                "level": level,
                "lr": self.improve.rate(number),
            } | self._judge(folder, self._trained(folder))

        # what changes what a fit gives, not when the loop ends
        fitting = dataclasses.replace(self.improve, levels=[0.0], early_stop=True, min_gain=0.0)
        given = {
            "policy": self.origin,
            "level": level,
            "step": number,
            "improve": dataclasses.asdict(fitting),
        }
        return self.parts.run(f"improve-{grow}-{number}", given, work)

    def _judge(self, folder: Path, policy: BackboneOptions) -> Result:
        """Measure a policy on the validation prompts, with the same noise for every policy."""
        rows = draw_samples(
            folder / "validation.jsonl",
            load_policy(policy, self.resolved_template).to(resolve_device()),
            self.reward,
            self.validation,
            self.judging,
            grow=0,
            seed=sample_seed(self.seed, "validation"),
        )
        return summary(rows, self.seed)

    def _trained(self, folder: Path) -> BackboneOptions:
        """Return the policy an Improve step wrote, cut as the first one is."""
        name = str(folder / "policy")
        return dataclasses.replace(
            self.policy, name=name, num_layers=None, revision=None, create_with=None
        )

    def _dependencies(self) -> dict[str, object]:
        return {
            "policy": fingerprint_of(self.policy),
            "trunk_layers": self.policy.trunk_layers,
            "train": [dataclasses.astuple(row) for row in self.train],
            "validation": [dataclasses.astuple(row) for row in self.validation],
            "reward": reward_identity(self.reward),
            "template": dataclasses.asdict(self.resolved_template),
            "drawing": self.drawing.identity,
            "judging": self.judging.identity,
            "seed": self.seed,
        }


def summary(rows: Sequence[ScoredResponse], seed: int) -> Result:
    """Return mean reward with its interval by prompt, words and the share of unfinished samples."""
    reward = Estimator(seed=seed).mean([row.reward for row in rows], [row.group for row in rows])
    count = len(rows)
    return reward.to_metrics("reward") | {
        "words": sum(word_count(row.response) for row in rows) / count,
        "unfinished": sum(not row.is_finished for row in rows) / count,
    }


def reward_identity(reward: Reward) -> str:
    """Tell rewards apart: by their fingerprint, a reward model by its weights and texts' form.

    Of several with weights each counts.
    """
    if isinstance(reward, WeightedRewards):
        return str(list(zip(reward.weights, map(reward_identity, reward.rewards), strict=True)))
    if isinstance(reward, RewardModel):
        digest = weights_digest(list(reward.named_parameters()), {})
        reads = f"{reward.pooling} {reward.max_response_tokens} {reward.model.template}"
        return f"reward model {digest} {float(reward.shift)!r} {reads}"
    return str(getattr(reward, "fingerprint", None) or settings_of(reward))
