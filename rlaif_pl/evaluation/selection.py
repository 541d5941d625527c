"""Which checkpoint to keep: candidates by validation reward, the choice by a judge.

As in arXiv 2309.00267, appendix G: a few checkpoints with high validation reward, then the win rate
of each against SFT by a language model (the paper then reads a dozen responses: see samples.jsonl).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaif_pl.evaluation.win_rate import WinRate
from rlaif_pl.training.checkpoints import read_checkpoint

LATEST = "last"  # checkpoints to resume from, whatever they are worth


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint with the value it was kept for."""

    path: Path  # file
    step: int  # optimizer steps behind it
    value: float  # validation reward when it was saved

    @property
    def name(self) -> str:
        """Short name, for tables and metrics."""
        return f"step_{self.step}"


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate and what its samples are worth."""

    candidate: Candidate  # the checkpoint
    rate: WinRate  # against SFT on the same prompts
    unfinished: float  # share of responses that the length limit cut


def read_candidate(path: Path, monitor: str) -> Candidate | None:
    """Read a checkpoint, no weights; None where no ``ModelCheckpoint`` of this monitor had a value."""
    content = read_checkpoint(path, sum_up=False, mmap=True)
    for state in content.get("callbacks", {}).values():
        if isinstance(state, Mapping) and state.get("monitor") == monitor:
            value = state.get("current_score")
            if value is not None and math.isfinite(float(value)):
                return Candidate(path, int(content["global_step"]), float(value))
    return None


def find_candidates(folder: Path, monitor: str, k: int) -> list[Candidate]:
    """Return the ``k`` checkpoints of the highest monitored value. ``ValueError``: there is none."""
    files = [f for f in sorted(folder.glob("*.ckpt")) if not f.name.startswith(LATEST)]
    found = [each for each in (read_candidate(file, monitor) for file in files) if each]
    if not found:
        raise ValueError(
            f"expected checkpoints kept for {monitor} in {folder}, got {len(files)} files without; "
            f"train with ModelCheckpoint(monitor={monitor!r}, mode='max', save_top_k={k})"
        )
    return sorted(found, key=lambda each: (-each.value, each.step))[:k]


def policy_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of an A2C checkpoint's actor by name. ``ValueError``: it has none."""
    state: dict[str, Any] = read_checkpoint(path)["state_dict"]
    prefix = "actor."
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise ValueError(
            f"expected an A2C checkpoint at {path}, got none of its weights named actor.*"
        )
    return found


def choose(judged: Sequence[JudgedCandidate]) -> JudgedCandidate:
    """Return the one with the highest win rate; of equals the earlier, which has moved less."""
    return min(judged, key=lambda each: (-each.rate.raw.value, each.candidate.step))


def selection_metrics(
    judged: Sequence[JudgedCandidate], chosen: JudgedCandidate
) -> dict[str, float]:
    """Return flat numbers ``select/<step>/...`` and those of the choice."""
    metrics: dict[str, float] = {"select/candidates": len(judged)}
    for each in judged:
        name = each.candidate.name
        metrics |= each.rate.to_metrics(name, "select")
        metrics[f"select/{name}_validation_reward"] = each.candidate.value
        metrics[f"select/{name}_unfinished"] = each.unfinished
    metrics |= chosen.rate.to_metrics("chosen", "select")
    metrics["select/chosen_step"] = chosen.candidate.step
    metrics["select/chosen_validation_reward"] = chosen.candidate.value
    return metrics
