import json
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule

from rlaif_pl.training.callbacks import AlarmLimits, ExportModel, HackingAlarm
from rlaif_pl.types import SampledResponse

OFF = AlarmLimits(
    shortest=None,
    longest=None,
    kl=None,
    unfinished=None,
    repetitive=None,
    empty=None,
    divergence=None,
)
FINE = {"length": 10.0, "kl": 1.0, "unfinished": 0.1}


class Series(LightningModule):
    """Logs given numbers and texts step by step; its one weight is the number of steps made."""

    def __init__(self, **series) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.series = series
        self.latest_samples: list[SampledResponse] = []

    def at(self, name, default):
        values = self.series.get(name, [])
        return values[self.global_step] if self.global_step < len(values) else default

    def training_step(self, batch):  # noqa: ARG002
        for name, value in FINE.items():
            self.log(f"a2c/train_{name}", torch.tensor(self.at(name, value)))
        texts = self.at("texts", ["a fine reply", "one more reply"])
        reward = self.at("reward", 0.0)
        self.latest_samples = [
            SampledResponse(self.global_step, f"post {n}", text, reward + 0.1 * n)
            for n, text in enumerate(texts)
        ]
        return -self.weight.sum()

    def validation_step(self, batch):  # noqa: ARG002
        self.log("a2c/val_reward", torch.tensor(self.at("val", 0.0)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)  # every step adds 1 to the weight


class Falling:
    """A judge whose scores fall by one a call, 0.1 apart on two prompts."""

    fingerprint = "falling"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, prompts, responses):  # noqa: ARG002
        self.calls += 1
        return torch.tensor([-float(self.calls) + 0.1 * n for n in range(len(prompts))])


def run(fit, alarm, steps=8, **options):
    """Fit; returns the trainer, the module and the alarm's warnings."""
    module = options.pop("module", None) or Series(**options.pop("series", {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"limit_val_batches": 0, "max_epochs": -1, **options}
        trainer = fit(module, callbacks=[alarm], max_steps=steps, **options)
    said = [str(w.message) for w in caught if "reward hacking alarm" in str(w.message)]
    return trainer, module, said


@pytest.mark.parametrize(
    ("name", "limits", "series"),
    [
        ("kl", {"kl": 5.0}, {"kl": [1.0, 1, 9, 9, 9, 9, 9, 9]}),
        ("length_ratio", {"longest": 2.0}, {"length": [10.0, 10, 21, 21, 21, 21, 21, 21]}),
        ("length_ratio", {"shortest": 0.5}, {"length": [10.0, 10, 4, 4, 4, 4, 4, 4]}),
        (
            "unfinished",
            {"unfinished": 0.3},
            {"unfinished": [0.5, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]},
        ),
        ("empty", {"empty": 0.4}, {"texts": [["fine"], ["fine"], *[["", "fine"]] * 6]}),
        (
            "repetitive",
            {"repetitive": 0.4},
            {"texts": [["fine"], ["fine"], *[["no " * 9, "a"]] * 6]},
        ),
    ],
)
def test_each_quantity_raises_one_warning_after_patience(fit, tmp_path, name, limits, series):
    off = dict.fromkeys(OFF.__dataclass_fields__)
    alarm = HackingAlarm(
        limits=AlarmLimits(**{**off, **limits}), baseline_steps=2, window=1, patience=3
    )
    trainer, _, said = run(fit, alarm, series=series)
    # Beyond the limit at steps 3, 4, 5: raised at 5, since 3; training goes on to 8.
    assert len(said) == 1
    assert f"at step 5: {name} is" in said[0]
    assert "since step 3; training goes on. What to try:" in said[0]
    assert trainer.global_step == 8
    assert trainer.callback_metrics["a2c/alarm_count"] == 1
    assert f"a2c/alarm_{name}" in trainer.callback_metrics
    kept = json.loads((tmp_path / "alarms.json").read_text())["alarms"]
    assert [(each["quantity"], each["step"], each["since"]) for each in kept] == [(name, 5, 3)]


def test_one_bad_step_is_no_alarm_and_the_window_smooths(fit):
    spike = {"kl": [1.0, 1, 30, 1, 1, 1, 1, 1]}
    alarm = HackingAlarm(limits=AlarmLimits(kl=8.0), window=4, patience=3)
    # Means over 4 from step 3: (1+1+30)/3, 33/4, 33/4, 33/4: beyond 8 for four steps.
    assert len(run(fit, alarm, series=spike)[2]) == 1
    assert not run(fit, HackingAlarm(limits=AlarmLimits(kl=8.0), window=1), series=spike)[2]


def test_stop_puts_the_best_validated_weights_back(fit, tmp_path):
    # Validated after every step: best at step 2; at step 4 the reward is higher, but KL is beyond.
    series = {"kl": [1.0, 1, 1, 9, 9, 9, 9, 9], "val": [0.0, 0.1, 0.5, 0.2, 0.9, 0.9, 0.9, 0.9]}
    alarm = HackingAlarm("stop", AlarmLimits(kl=5.0), window=1, patience=2)
    trainer, module, said = run(
        fit, alarm, series=series, limit_val_batches=1, val_check_interval=1
    )
    assert trainer.global_step == 5
    assert "stopping; the best weights are those of step 2 (0.5)" in said[0]
    assert module.weight.item() == 2.0
    saved = torch.load(tmp_path / "checkpoints/before_alarm.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_reward_up_and_judge_down_is_divergence(fit):
    series = {"reward": [0.1 * n for n in range(8)]}
    alarm = HackingAlarm("stop", judge=Falling(), judge_every=1, baseline_steps=1)
    trainer, module, said = run(fit, alarm, series=series)
    # Three judged steps make a trend; the judge liked the first step best.
    assert trainer.global_step == 3
    assert "divergence is" in said[0]
    assert "the best weights are those of step 1" in said[0]
    assert module.weight.item() == 1.0
    # Reward: slope 0.1 over 2 steps, std of two prompts 0.1 apart 0.0707: 0.2 / 0.0707 = 2.83.
    assert trainer.callback_metrics["a2c/alarm_reward_trend"] == pytest.approx(2.828, abs=1e-3)
    assert trainer.callback_metrics["a2c/alarm_judge_trend"] == pytest.approx(-28.28, abs=1e-2)
    assert trainer.callback_metrics["a2c/alarm_divergence"] == pytest.approx(2.828, abs=1e-3)


def test_a_judge_that_falls_while_the_reward_stands_is_none(fit):
    alarm = HackingAlarm("stop", judge=Falling(), judge_every=1)
    trainer, _, said = run(fit, alarm)
    assert not said
    assert trainer.callback_metrics["a2c/alarm_divergence"] == 0


def test_the_reward_may_not_judge_itself(fit):
    module = Series()
    module.reward = Falling()
    with pytest.raises(ValueError, match="the judge is the reward"):
        run(fit, HackingAlarm(judge=Falling()), module=module)


def test_a_resumed_run_goes_on_where_it_was(fit, tmp_path):
    series = {"kl": [1.0, 1, 9, 9, 9, 9, 9, 9], "length": [10.0, 12, 14, 16, 18, 20, 22, 24]}
    options = {"limits": AlarmLimits(kl=5.0), "window": 2, "patience": 3}
    whole = HackingAlarm(**options)
    run(fit, whole, series=series)
    half = HackingAlarm(**options)
    trainer, _, _ = run(fit, half, steps=4, series=series)
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    rest = HackingAlarm(**options)
    run(fit, rest, series=series, ckpt_path=path)
    assert rest.state_dict() == whole.state_dict()
    assert rest.alarms


def test_a_fit_that_was_stopped_stops_again_with_the_best_weights(fit, tmp_path):
    series = {"kl": [1.0, 1, 1, 9, 9, 9, 9, 9], "val": [0.0, 0.1, 0.5, 0.2, 0.9, 0.9, 0.9, 0.9]}
    settings = {"series": series, "limit_val_batches": 1, "val_check_interval": 1}

    def alarm(action):
        return HackingAlarm(action, AlarmLimits(kl=5.0), window=1, patience=2)

    first, module, _ = run(fit, alarm("stop"), **settings)
    path = tmp_path / "stopped.ckpt"
    trained = torch.full((1,), float(first.global_step))
    module.weight.data.copy_(trained)
    first.save_checkpoint(path)
    again, module, said = run(fit, alarm("stop"), **settings, ckpt_path=path)
    assert again.global_step == first.global_step == 5
    assert module.weight.item() == 2.0
    assert not said  # of another alarm
    on, module, _ = run(fit, alarm("warn"), **settings, ckpt_path=path)
    assert (on.global_step, module.weight.item()) == (8, 8.0)


def test_a_fit_that_was_only_warned_goes_on_when_it_is_to_stop(fit, tmp_path):
    series = {"kl": [1.0, 1, 9, 9, 9, 9, 9, 9, 9, 9], "length": [10.0] * 7 + [99.0] * 3}
    settings = {"series": series, "limit_val_batches": 1, "val_check_interval": 1}
    limits = AlarmLimits(kl=5.0, longest=2.0)

    def resume(action, steps, path=None):
        alarm = HackingAlarm(action, limits, window=1, patience=2, baseline_steps=1)
        trainer, module, _ = run(fit, alarm, steps, **settings, ckpt_path=path)
        path = tmp_path / f"{action}{steps}.ckpt"
        trainer.save_checkpoint(path)
        return path, trainer.global_step, module.weight.item(), len(alarm.alarms)

    warned, *found = resume("warn", 5)
    assert found == [5, 5.0, 1]
    on, *found = resume("stop", 6, warned)
    assert found == [6, 6.0, 1]  # no best weights are put back either
    stopped, *found = resume("stop", 10, on)
    assert found == [9, 1.0, 2]  # of the first step, before any trouble
    assert resume("stop", 10, stopped)[1:] == (9, 1.0, 2)
    earlier = torch.load(stopped, weights_only=True)
    for state in earlier["callbacks"].values():
        state.pop("stopped", None)
    torch.save(earlier, tmp_path / "earlier.ckpt")
    assert resume("stop", 10, tmp_path / "earlier.ckpt")[1] == 9
    went_on, *found = resume("warn", 10, stopped)
    assert found[0] == 10
    assert resume("stop", 12, went_on)[1] == 12


def test_it_must_stand_above_the_export(fit, monkeypatch):
    monkeypatch.setattr(ExportModel, "check", lambda *_: 0)  # Series has nothing to export
    with pytest.raises(ValueError, match="above ExportModel"):
        fit(Series(), callbacks=[ExportModel(), HackingAlarm()])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "HackingAlarm.window of at least 1"),
        ({"judge_window": 2}, "HackingAlarm.judge_window of at least 3"),
        ({"action": "shout"}, "expected action to be 'warn' or 'stop'"),
        ({"best": "judge"}, "so give a judge"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        HackingAlarm(**options)


def test_a_module_that_does_not_sample_is_named(fit, tiny):
    with pytest.raises(ValueError, match="got 3 samples and no .*use it with A2CModule"):
        run(fit, HackingAlarm(), module=tiny())
