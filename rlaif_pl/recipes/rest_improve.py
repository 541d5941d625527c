"""One Improve step of ReST: what is kept, and the fit it goes into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif_pl.device_names import trainer_options
from rlaif_pl.errors import above, one_of, within
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.policy import BackboneOptions
from rlaif_pl.recipes.rest_samples import ScoredResponse
from rlaif_pl.text import Template

LR, ADAPTER_LR = 2e-5, 2e-4  # of SFTModule
Schedule = Literal["normalized", "percentile", "max_mean"]


def check_levels(by: Schedule, levels: Sequence[float]) -> None:
    """Refuse a schedule that is empty, out of range or falling."""
    one_of(Schedule, by=by)
    if not levels:
        raise ValueError("expected a level for each Improve step, got none")
    for level in levels:
        within(0, 100 if by == "percentile" else 1, **{f"{by} levels": level})
    if list(levels) != sorted(levels):
        raise ValueError(f"expected levels that rise from step to step, got {list(levels)}")


def passes(
    rewards: ArrayLike, groups: Sequence[str], by: Schedule, level: float
) -> NDArray[np.bool_]:
    """Tell which finite rewards ``(N,)``, of prompts ``groups``, reach a step's threshold. ``(N,)``.

    ``level`` is, by ``normalized``, on the rewards of the whole set scaled to 0..1 (all 1 where they
    are equal); by ``percentile`` that of a prompt's rewards; by ``max_mean`` the place between their
    mean and greatest. Reaching it is enough, where the paper asks for more, so that level 0 of
    ``normalized`` is all data as in its tables and the best of a prompt always passes the other two.
    """
    values = np.asarray(rewards, np.float64)
    check_levels(by, [level])
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"expected a prompt for each reward, got {len(values)} and {len(groups)}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite rewards; look at the reward of the first that is not")
    if by == "normalized":
        least, greatest = values.min(), values.max()
        if least == greatest:
            return np.ones(len(values), bool)
        return (values - least) / (greatest - least) >= level
    thresholds = np.empty_like(values)
    names = np.asarray(groups)
    for name in dict.fromkeys(groups):
        rows = names == name
        own, best = values[rows], values[rows].max()
        mean = own.mean()
        wanted = np.percentile(own, level) if by == "percentile" else mean + level * (best - mean)
        thresholds[rows] = min(wanted, best)  # sums are rounded; the best must pass
    return values >= thresholds


TrainerOption = str | int | float | bool


@dataclass(frozen=True)
class Improve:
    """How the policy is fitted to what passes the filter.

    Attributes:
        by: What thresholds are on. ``normalized``: rewards of the whole set scaled to 0..1;
            ``percentile``: percentile (0..100) of the rewards of a prompt; ``max_mean``: where between
            mean (0) and greatest (1) of a prompt's rewards.
        levels: Threshold of each Improve step of a Grow step; they rise.
        lr: Learning rate of the first Improve step of a Grow step; None takes that of ``SFTModule``:
            2e-5, or 2e-4 where adapters are trained.
        lr_decay: What each further step multiplies it by, in (0, 1].
        warmup_steps: Steps over which the rate rises; then it stays.
        epochs: Passes over what was kept.
        batch_size: Rows a process takes a training step.
        max_response_tokens: Longer responses lose their tail, see ``SFTModule``; None takes all whole.
        lora: Adapters of each step, folded in at its end; None trains the layers whole.
        keep_unfinished: Also learn from samples that the length limit cut, but not to end there.
        early_stop: End a Grow step's Improve steps where the validation reward no longer rises; a
            step that did not raise it is not kept. False keeps every step.
        min_gain: What a step must add to the validation reward to be kept, in its units.
        trainer: Options of the Lightning trainer (``devices``, ``strategy``, ``precision``, ...).
    """

    by: Schedule = "normalized"
    levels: list[float] = field(default_factory=lambda: [0.0, 0.7, 0.8, 0.9])
    lr: float | None = None
    lr_decay: float = 0.5
    warmup_steps: int = 0
    epochs: int = 1
    batch_size: int = 8
    max_response_tokens: int | None = None
    lora: Lora | None = None
    keep_unfinished: bool = False
    early_stop: bool = True
    min_gain: float = 0.0
    trainer: dict[str, TrainerOption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_levels(self.by, self.levels)
        above(0, lr=self.rate(1), lr_decay=self.lr_decay)
        within(0, 1, lr_decay=self.lr_decay)

    def rate(self, step: int) -> float:
        """Return the learning rate of an Improve step, counted from 1."""
        default = LR if self.lora is None else ADAPTER_LR
        return (default if self.lr is None else self.lr) * self.lr_decay ** (step - 1)

    def is_rise(self, before: float, after: float) -> bool:
        """Tell whether a step that took the validation reward from one value to another is kept."""
        return not self.early_stop or after > before + self.min_gain


def select(rows: Sequence[ScoredResponse], improve: Improve, level: float) -> list[ScoredResponse]:
    """Return the rows an Improve step learns from, at least one.

    Empty responses, repetitions and, unless asked for, samples that the length limit cut are left out
    first: they set no threshold either.
    """
    usable: dict[tuple[str, str, str], ScoredResponse] = {}
    for row in rows:
        if row.response.strip() and (row.is_finished or improve.keep_unfinished):
            usable.setdefault((row.group, row.prompt, row.response), row)
    kept = list(usable.values())
    if not kept:
        raise ValueError(
            f"expected responses to learn from, all {len(rows)} are empty or cut by the length "
            "limit; raise drawing.sampling.max_new_tokens or set improve.keep_unfinished"
        )
    passed = passes([row.reward for row in kept], [row.group for row in kept], improve.by, level)
    return [row for row, is_in in zip(kept, passed, strict=True) if is_in]


def fit_config(
    policy: BackboneOptions,
    data: Path,
    folder: Path,
    improve: Improve,
    template: Template,
    step: int,
    seed: int,
) -> dict[str, object]:
    """Return the config of ``fit`` for an Improve step."""
    trainer: dict[str, object] = {"max_epochs": improve.epochs, "devices": 1}
    trainer |= trainer_options(str(resolve_device()))  # where the loop itself computes
    trainer |= {"gradient_clip_val": 1.0, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    trainer |= {**improve.trainer, "default_root_dir": str(folder)}
    rate = {"lr": improve.rate(step), "weight_decay": 0.0}
    warmup = {"warmup_steps": improve.warmup_steps}
    model = {
        "backbone": dataclasses.asdict(policy),
        "lora": None if improve.lora is None else dataclasses.asdict(improve.lora),
        "template": dataclasses.asdict(template),
        "max_response_tokens": improve.max_response_tokens,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": rate},
        "scheduler": {"class_path": "rlaif_pl.training.ConstantWithWarmup", "init_args": warmup},
        "seed": seed,
    }
    rows = {"demonstrations": {"name": str(data), "format": "prompts"}, "validation_fraction": 0.0}
    return {
        "seed_everything": seed,
        "trainer": trainer,
        "default_callbacks": {"checkpoint_every": 10},
        "model": {"class_path": "rlaif_pl.training.SFTModule", "init_args": model},
        "data": {"task": "demonstrations", **rows, "batch_size": improve.batch_size, "seed": seed},
    }
