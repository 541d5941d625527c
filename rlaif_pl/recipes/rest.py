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

Folders: ``start`` (demonstrations.jsonl; validation.jsonl: samples of the first policy), ``grow-<g>``
(samples.jsonl) and ``improve-<g>-<i>`` (kept.jsonl, config.yaml, policy, validation.jsonl).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.engine.sampling import sample_seed
from rlaif_pl.evaluation.results import COLORS, error_bars, plain_axes
from rlaif_pl.models.backbone import fingerprint_of
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.model_info import weights_digest
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.text_format import format_of
from rlaif_pl.recipes import rest_samples
from rlaif_pl.recipes.rest_improve import Improve, fit_config, select
from rlaif_pl.recipes.rest_parts import Parts, Result
from rlaif_pl.recipes.rest_samples import Drawing, ScoredResponse
from rlaif_pl.rl.function_reward import WeightedRewards, settings_of
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.statistics import Estimator, Interval, empty_interval
from rlaif_pl.tables import PERCENT, Column, Columns, Page, Rows, Table
from rlaif_pl.text import Template, word_count
from rlaif_pl.types import Prompt, Reward

logger = logging.getLogger(__name__)
Fit = Callable[[dict[str, object], Path], None]
PLOT = "steps.svg"
# Title and format of what a step's result holds.
SHOWN = {
    "level": ("threshold", ".4g"),
    "kept": ("kept samples", ".0f"),
    "demonstrations": ("of these demonstrations", ".0f"),
    "lr": ("learning rate", ".4g"),
    "reward": ("validation reward", ".3g"),
    "words": ("words", ".1f"),
    "unfinished": ("unfinished, %", PERCENT),
}


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
        depends = {
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
        self.parts = Parts(self.out, depends)

    def run(self) -> list[Step]:
        """Run what is not finished; afterwards ``policy`` names the policy that was kept last."""
        start, result = self.parts.run("start", {}, self._start)
        steps, best = [Step(0, 0, True, result)], result["reward"]
        demonstrations = rest_samples.read_samples(start / "demonstrations.jsonl")
        for grow in range(1, self.grow_steps + 1):
            before, given = self.policy, {"policy": self.origin}
            draw = partial(self._draw, policy=before, grow=grow)
            folder, _ = self.parts.run(f"grow-{grow}", given, draw)
            rows = [*demonstrations, *rest_samples.read_samples(folder / "samples.jsonl")]
            for number in range(1, len(self.improve.levels) + 1):
                folder, result = self._improve(grow, number, rows)
                is_kept = self.improve.is_rise(best, result["reward"])
                logger.info(
                    "Grow %d, Improve %d: %d rows, validation reward %.3f to %.3f, %s",
                    *(grow, number, result["kept"], best, result["reward"]),
                    "kept" if is_kept else "not kept",
                )
                steps.append(Step(grow, number, is_kept, result))
                if not is_kept:
                    break
                best, self.policy = result["reward"], self._trained(folder)
                self.origin = folder.name
            if self.policy is before:
                logger.warning("ReST: no Improve of Grow %d raised the validation reward", grow)
                break
        return steps

    def _start(self, folder: Path) -> Result:
        path = folder / "demonstrations.jsonl"
        rows = rest_samples.score_demonstrations(path, self.reward, self.train, self.seed)
        mean = math.fsum(row.reward for row in rows) / max(len(rows), 1)
        return {"demonstration_reward": mean} | self._draw(folder, self.policy)

    def _improve(
        self, grow: int, number: int, rows: Sequence[ScoredResponse]
    ) -> tuple[Path, Result]:
        """Fit the current policy to what passes the filter, and judge what comes of it."""
        level = self.improve.levels[number - 1]
        kept = select(rows, self.improve, level)

        def work(folder: Path) -> Result:
            data = folder / "kept.jsonl"
            asked = {row.text: row.text for row in self.train}  # with their turns, which no row has
            write_prompts(data, (rest_samples.demonstration(r, asked[r.prompt]) for r in kept))
            options = self.improve, self.resolved_template, number, self.seed
            config = fit_config(self.policy, data, folder, *options)
            if not (folder / "policy" / "config.json").is_file():  # written at once, at the end
                self.fit(config, folder)
            known = sum(row.policy == rest_samples.DEMONSTRATION for row in kept)
            result = {"kept": float(len(kept)), "demonstrations": float(known), "level": level}
            result["lr"] = self.improve.rate(number)
            return result | self._draw(folder, self._trained(folder))

        # what changes what a fit gives, not when the loop ends
        fitting = dataclasses.replace(self.improve, levels=[0.0], early_stop=True, min_gain=0.0)
        given = {"policy": self.origin, "level": level, "step": number}
        given["improve"] = dataclasses.asdict(fitting)
        return self.parts.run(f"improve-{grow}-{number}", given, work)

    def _draw(self, folder: Path, policy: BackboneOptions, grow: int = 0) -> Result:
        """Draw for a Grow step, or (0) for the validation prompts, with one noise for all policies.

        Returns mean reward with its interval by prompt, words, and the share of unfinished ones.
        """
        path, prompts, drawing = folder / "validation.jsonl", self.validation, self.judging
        seed = sample_seed(self.seed, "validation")
        if grow:
            path, prompts, drawing = folder / "samples.jsonl", self.train, self.drawing
            seed = sample_seed(self.seed, "grow", grow)
        model = load_policy(policy, self.resolved_template).to(resolve_device())
        rows = rest_samples.draw_samples(
            path, model, self.reward, prompts, drawing, grow=grow, seed=seed
        )
        rewards, groups = [row.reward for row in rows], [row.group for row in rows]
        result = Estimator(seed=self.seed).mean(rewards, groups).to_metrics("reward")
        result |= {"samples": float(len(rows))} if grow else {}
        return result | {
            "words": sum(word_count(row.response) for row in rows) / len(rows),
            "unfinished": sum(not row.is_finished for row in rows) / len(rows),
        }

    def _trained(self, folder: Path) -> BackboneOptions:
        """Return the policy an Improve step wrote, cut as the first one is."""
        name = str(folder / "policy")
        return dataclasses.replace(
            self.policy, name=name, num_layers=None, revision=None, create_with=None
        )


def reward_identity(reward: Reward) -> str:
    """Tell rewards apart: by fingerprints, a reward model by its weights and how it reads texts."""
    if isinstance(reward, WeightedRewards):
        return str(list(zip(reward.weights, map(reward_identity, reward.rewards), strict=True)))
    if isinstance(reward, RewardModel):
        digest = weights_digest(list(reward.named_parameters()), {})
        reads = f"{reward.pooling} {reward.max_response_tokens} {reward.model.template}"
        return f"reward model {digest} {float(reward.shift)!r} {reads}"
    return str(getattr(reward, "fingerprint", None) or settings_of(reward))


def page_of(steps: Sequence[Step]) -> Page:
    """Lay the steps out, the start first, with what to know to read them."""
    columns: Columns = ["grow", "improve", *(Column(*each) for each in SHOWN.values()), "policy"]
    rows: Rows = []
    for step in steps:
        known = {name: step.result.get(name) for name in SHOWN} | {"reward": _reward(step)}
        names = [str(step.grow), str(step.improve)] if step.improve else ["start", ""]
        verdict = "kept" if step.is_kept else "not kept"
        rows.append([*names, *known.values(), verdict if step.improve else ""])
    notes = [
        reading(steps),
        "Steps are named grow.improve. The threshold is on what improve.by of the config says. "
        "Intervals are of 95 %, by prompt.",
    ]
    return Page([Table("ReST", columns, rows)], notes, PLOT, "Validation reward by step")


def reading(steps: Sequence[Step]) -> str:
    """Say what the loop did to the validation reward, and what that is worth."""
    tried = [step for step in steps if step.improve]
    kept = [step for step in tried if step.is_kept]
    text = f"{len(kept)} of {len(tried)} Improve steps were kept."
    if not kept:
        return f"{text} The policy is the one it started from."
    before, after = _reward(steps[0]), _reward(kept[-1])
    text += f" Validation reward went from {before.value:.3g} to {after.value:.3g}"
    if math.isfinite(before.low) and math.isfinite(after.low):
        overlap = after.low <= before.high and before.low <= after.high
        text += "; their intervals overlap" if overlap else "; their intervals are apart"
    return (
        f"{text}. That reward decided which steps were kept, so it flatters the last one: believe what "
        "is measured on other prompts."
    )


def plot(steps: Sequence[Step]) -> Figure:
    """Draw the validation reward of each step with its interval."""
    figure = Figure(figsize=(6.4, 2.2), layout="constrained")
    axes = plain_axes(figure)
    places = list(range(len(steps)))
    rewards = [_reward(step) for step in steps]
    error_bars(axes, places, rewards, scale=1, fmt="o-", color=COLORS[0], linewidth=1.2)
    names = [f"{step.grow}.{step.improve}" if step.improve else "start" for step in steps]
    axes.set_xticks(places, names)
    axes.set_ylabel("validation reward")
    return figure


def _reward(step: Step) -> Interval:
    return Interval.read(step.result, "reward") or empty_interval()
