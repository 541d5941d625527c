"""Watch reinforcement learning for signs that a policy games its reward, and stop it if asked to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.errors import at_least, one_of
from rlaif_pl.statistics.regression import BatchMean, divergence, trend
from rlaif_pl.training.callbacks import alarm_rules as rules
from rlaif_pl.training.callbacks.export_model import ExportModel
from rlaif_pl.training.checkpoints import read_checkpoint
from rlaif_pl.types import PointwiseLabeler, Reward

ALARMS_FILE, BEST_FILE = "alarms.json", "checkpoints/before_alarm.ckpt"
MEANS = ("length", "kl", "unfinished")  # read from the module's a2c/train_*
LEAST_POINTS = 3  # judged steps before a trend is looked at
Action = Literal["warn", "stop"]
Best = Literal["validation", "judge"]


class HackingAlarm(Callback):
    """Warns, or stops with the best weights so far, when a policy games its reward.

    Looked at every optimizer step, as means over the last ``window`` steps: length against that of the
    first steps (which are the SFT policy's), KL, and the shares of unfinished, repetitive and empty
    responses. Every ``judge_every`` steps a judge that did not train the policy scores the latest
    samples: where the reward rises while the judge falls, both beyond chance (``z``), the reward is
    being gamed (Gao et al. 2023, arXiv 2210.10760). Logs ``a2c/alarm_*``; writes ``alarms.json`` below
    ``trainer.default_root_dir`` when one goes off. All ranks decide the same.

    Args:
        action: ``warn`` says so once a quantity; ``stop`` also ends training, and what is exported are
            the best weights before the trouble began. A fit resumed from ``last.ckpt`` stops again.
        limits: Where an alarm goes off.
        best: What the best weights are measured by: the mean reward in ``validation``, or the mean
            opinion of the ``judge``; None takes the judge where there is one, since a gamed reward is
            highest when it is gamed most. They are kept in ``checkpoints/before_alarm.ckpt``, from
            steps at which nothing was beyond its limit.
        judge: A reward or pointwise labeler that the policy was not trained on; None for no judge.
        judge_every: Optimizer steps between two judgments, at least 1.
        judge_samples: Latest samples a process has judged each time, at least 2.
        judge_window: Judged steps that a trend is fitted to, at least 3.
        z: Standard errors by which both trends must differ from 0 at one look; more the more looks
            there were, so that a whole fit has a false alarm no more often (``alarm_rules.z_at_look``).
        baseline_steps: First steps whose means stand for the SFT policy, at least 1.
        window: Steps averaged over, at least 1.
        patience: Steps in a row beyond a limit before an alarm goes off, at least 1.
        repetition: When a response is repetitive.
    """

    def __init__(
        self,
        action: Action = "warn",
        limits: rules.AlarmLimits = rules.AlarmLimits(),  # noqa: B008 - frozen
        best: Best | None = None,
        judge: Reward | PointwiseLabeler | None = None,
        judge_every: int = 10,
        judge_samples: int = 64,
        judge_window: int = 8,
        z: float = 2.0,
        baseline_steps: int = 5,
        window: int = 5,
        patience: int = 3,
        repetition: rules.Repetition = rules.Repetition(),  # noqa: B008 - frozen
    ) -> None:
        counts = {"judge_every": judge_every, "baseline_steps": baseline_steps}
        counts |= {"window": window, "patience": patience}  # EarlyStopping has a patience, too
        at_least(1, **{f"HackingAlarm.{name}": count for name, count in counts.items()})
        at_least(LEAST_POINTS, **{"HackingAlarm.judge_window": judge_window})
        one_of(Action, action=action)
        if best is not None:
            one_of(Best, best=best)
        if best == "judge" and judge is None:
            raise ValueError("HackingAlarm: best is 'judge', so give a judge")
        self.action, self.limits, self.z, self.patience = action, limits, z, patience
        self.best = best or ("validation" if judge is None else "judge")
        self.judge = None if judge is None else rules.AlarmJudge(judge, judge_samples)
        self.judge_every, self.baseline_steps = judge_every, baseline_steps
        self.repetition = repetition
        # The weights that are kept: what they were measured at (None before the first), and when.
        self.kept: dict[str, Any] = {"value": None, "step": -1, "file": BEST_FILE}
        self.streaks: dict[str, tuple[int, int]] = {}  # see `count_streaks`
        self.baseline: list[dict[str, float]] = []
        self.recent: deque[dict[str, float]] = deque(maxlen=window)
        self.judged: deque[tuple[BatchMean, BatchMean]] = deque(maxlen=judge_window)
        self.looks = 0  # trends that were tested
        self.alarms: list[dict[str, Any]] = []
        self.stopped = False  # whether an alarm ended the fit, not only warned
        self._pending: list[dict[str, float]] = []  # batches of an optimizer step that goes on
        self._last_step = -1

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = [type(each) for each in trainer.callbacks]  # type: ignore[attr-defined]
        if ExportModel in names[: names.index(type(self))]:
            raise ValueError(
                "HackingAlarm: expected above ExportModel in trainer.callbacks, since it decides which "
                "weights are exported; move it up"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        self.stopped = self.stopped and self.action == "stop"
        if self.stopped:
            trainer.should_stop = True  # its export failed, perhaps, and the fit was started again
            rank_zero_warn(
                f"HackingAlarm: stopping again, since the checkpoint is of a fit that an alarm stopped "
                f"at step {self.alarms[-1]['step']}; set action: warn to train on"
            )
        if self.judge is not None:
            self.judge.prepare(pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._pending.append(self._observe(trainer, pl_module))
        step = trainer.global_step
        if step == self._last_step:
            return  # gradients are being accumulated
        self._last_step = step
        rows, self._pending = self._pending, []
        values = self._windowed(_mean_of(rows))
        logged = {f"alarm_{name}": value for name, value in values.items()}
        if self.judge is not None and step % self.judge_every == 0:
            values |= self._judge(trainer, pl_module, logged)
        crossed = self.limits.crossed(values)
        rules.count_streaks(self.streaks, step, values, crossed)
        if self.best == "judge" and self.judged and self.judged[-1][1].step == step:
            self._offer(trainer, step, self.judged[-1][1].mean)
        for name, limit in crossed.items():
            self._raise_alarm(trainer, step, name, values[name], limit)
        logged["alarm_count"] = float(len(self.alarms))
        pl_module.log_dict({f"a2c/{name}": value for name, value in logged.items()})

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get("a2c/val_reward")
        if self.best == "validation" and value is not None and not trainer.sanity_checking:
            self._offer(trainer, trainer.global_step, float(value))

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After ModelCheckpoint's last save, which is thus of the last step, and before the export.
        if self.action != "stop" or not self.stopped:
            return
        if self.kept["value"] is None:
            rank_zero_warn(
                "HackingAlarm: stopped before any weights were measured, so those of the last step "
                "stay; validate more often (trainer.val_check_interval), or judge more often"
            )
            return
        path = Path(trainer.default_root_dir) / BEST_FILE
        trainer.strategy.load_model_state_dict(read_checkpoint(path), strict=False)
        rank_zero_info(f"weights put back to {path}")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline,
            "recent": list(self.recent),
            "looks": self.looks,
            "judged": [[tuple(reward), tuple(judge)] for reward, judge in self.judged],
            "onsets": {name: onset for name, (onset, _) in self.streaks.items()},
            "lengths": {name: length for name, (_, length) in self.streaks.items()},
            "alarms": self.alarms,
            "stopped": self.stopped,
            "weights": dict(self.kept),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.baseline = list(state_dict["baseline"])
        self.recent.extend(state_dict["recent"])
        self.judged.extend((BatchMean(*r), BatchMean(*j)) for r, j in state_dict["judged"])
        self.looks = state_dict.get("looks", len(self.judged))  # not in earlier checkpoints
        onsets, lengths = state_dict["onsets"], state_dict["lengths"]
        self.streaks = {name: (onsets[name], lengths[name]) for name in onsets}
        self.alarms = list(state_dict["alarms"])
        self.stopped = state_dict.get("stopped", bool(self.alarms))  # not in earlier checkpoints
        self.kept = dict(state_dict["weights"])

    def _observe(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        metrics = trainer.callback_metrics
        missing = [name for name in MEANS if f"a2c/train_{name}" not in metrics]
        samples = getattr(pl_module, "latest_samples", None)
        if missing or not samples:
            raise ValueError(
                f"HackingAlarm: expected latest_samples and a2c/train_{'|'.join(MEANS)} from "
                f"{type(pl_module).__name__}, got {len(samples or [])} samples and no {missing}; use "
                "it with A2CModule"
            )
        row = {name: float(metrics[f"a2c/train_{name}"]) for name in MEANS}
        responses, kind = [s.response for s in samples], self.repetition
        counts = rules.symptoms(responses, kind.ngram, kind.share)
        sums = torch.tensor(counts, dtype=torch.float32, device=pl_module.device)
        repetitive, empty, total = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return row | {"repetitive": repetitive / total, "empty": empty / total}

    def _windowed(self, row: dict[str, float]) -> dict[str, float]:
        """Take a step in; returns its quantities, averaged and beside the first steps'."""
        if len(self.baseline) < self.baseline_steps:
            self.baseline.append(row)
        self.recent.append(row)
        first, now = _mean_of(self.baseline), _mean_of(self.recent)
        return {
            "length_ratio": now["length"] / first["length"] if first["length"] else 1.0,
            "kl": now["kl"],
            "unfinished": now["unfinished"] - first["unfinished"],
            "repetitive": now["repetitive"] - first["repetitive"],
            "empty": now["empty"],
        }

    def _judge(
        self, trainer: Trainer, module: LightningModule, logged: dict[str, float]
    ) -> dict[str, float]:
        """Judge a step; returns the divergence, if a trend can be told, and adds what is logged."""
        assert self.judge is not None
        reward, opinion, missing = self.judge.judge(trainer, module)
        logged["alarm_judge_missing"] = missing
        if reward is None or opinion is None:
            return {}
        self.judged.append((reward, opinion))
        logged["alarm_judge"] = opinion.mean
        if len(self.judged) < LEAST_POINTS:
            return {}
        up, down = trend([r for r, _ in self.judged]), trend([j for _, j in self.judged])
        logged |= {"alarm_reward_trend": up.rise, "alarm_judge_trend": down.rise}
        self.looks += 1
        z = rules.z_at_look(self.z, self.looks)
        beyond_chance = up.z >= z and down.z <= -z
        value = divergence(up, down) if beyond_chance else 0.0
        logged["alarm_divergence"] = value
        return {"divergence": value}

    def _offer(self, trainer: Trainer, step: int, value: float) -> None:
        """Save the weights if they are the best and nothing is beyond its limit; on every rank."""
        if self.streaks or self.alarms or not math.isfinite(value):
            return
        if self.kept["value"] is None or value > self.kept["value"]:
            self.kept |= {"value": value, "step": step}
            place = Path(trainer.default_root_dir) / BEST_FILE
            trainer.save_checkpoint(place, weights_only=True)

    def _raise_alarm(
        self, trainer: Trainer, step: int, name: str, value: float, limit: float
    ) -> None:
        """Warn once a quantity, when it has been beyond its limit for long enough."""
        needed = 1 if name == "divergence" else self.patience
        onset, length = self.streaks[name]
        if length < needed or any(alarm["quantity"] == name for alarm in self.alarms):
            return
        alarm = {"quantity": name, "value": value, "limit": limit, "step": step, "since": onset}
        self.alarms.append(alarm)
        end = "training goes on"
        if self.action == "stop":
            end = "stopping; no weights were measured before, so the last ones stay"
            if self.kept["value"] is not None:
                best = f"step {self.kept['step']} ({self.kept['value']:.4g}), in {BEST_FILE}"
                end = f"stopping; the best weights are those of {best}"
        rank_zero_warn(
            f"reward hacking alarm at step {step}: {name} is {value:.3g}, beyond its limit of "
            f"{limit:g} since step {onset}; {end}. What to try: {rules.ADVICE[name]}."
        )
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            content = {"action": self.action, "limits": asdict(self.limits), "alarms": self.alarms}
            write_json(folder / ALARMS_FILE, content | {"best": self.kept})
        if self.action == "stop":
            self.stopped = trainer.should_stop = True


def _mean_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
