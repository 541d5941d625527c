"""The section on alarms, from files that the callback wrote."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from rlaif_pl.reporting.files import read_alarms
from rlaif_pl.reporting.run import read_run
from rlaif_pl.reporting.verdict import warnings_of
from rlaif_pl.training.callbacks import AlarmLimits, HackingAlarm, HistoryFile
from rlaif_pl.types import SampledResponse


class Drifting(LightningModule):
    """Logs a KL that rises from 1 to 9 at the third step; its one weight counts the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.latest_samples: list[SampledResponse] = []

    def training_step(self, batch):  # noqa: ARG002
        kl = 1.0 if self.global_step < 2 else 9.0
        for name, value in {"length": 10.0, "kl": kl, "unfinished": 0.1}.items():
            self.log(f"a2c/train_{name}", value)
        self.latest_samples = [SampledResponse(0, "post", "a harmful <reply>", 0.0)]
        return -self.weight.sum()

    def validation_step(self, batch):  # noqa: ARG002
        self.log("a2c/val_reward", 0.25)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture
def watch(stage):
    """Train a stage under an alarm with a limit on the KL; returns its folder."""

    def train(limit, **options):
        folder = stage("a2c")
        limits = AlarmLimits(kl=limit, repetitive=None)
        alarm = HackingAlarm(limits=limits, window=1, patience=2, **options)
        trainer = Trainer(
            default_root_dir=folder,
            max_steps=6,
            accelerator="cpu",
            callbacks=[alarm],
            logger=HistoryFile(folder),
            log_every_n_steps=1,
            val_check_interval=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        data = DataLoader(torch.ones(8, 2), batch_size=1)
        trainer.fit(Drifting(), data, DataLoader(torch.ones(1, 2)))
        return folder

    return train


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_run_says_which_alarm_when_and_what_was_kept(watch, page_of):
    folder = watch(5.0, action="stop")
    page = page_of(folder.parent)
    text = " ".join(page.sections["alarms"].split())
    # beyond the limit after the steps 3 and 4
    assert "Stage a2c. Training was stopped at step 4." in text
    assert "those of step 1 (validation reward or judge: 0.25)" in text
    assert "kept in checkpoints/before_alarm.ckpt" in text
    # step, first step beyond the limit, value, limit
    assert text.endswith("KL from SFT, nats a response4395")
    assert (
        "KL from SFT, nats a response: 9 at step 4, beyond its limit of 5 since step 3"
        in (page.sections["warnings"])
    )
    assert "harmful" not in "".join(page.sections.values())


@pytest.mark.filterwarnings("ignore")
def test_a_warned_run_says_that_training_went_on(watch, page_of):
    text = page_of(watch(5.0).parent).sections["alarms"]
    assert "Training went on (action: warn)" in text
    assert "The best before the alarm are those of step 1" in text


@pytest.mark.filterwarnings("ignore")
def test_a_watched_run_without_alarm_says_so(watch, page_of):
    page = page_of(watch(50.0).parent)
    assert "Watched at 6 logged steps; no alarm." in page.sections["alarms"]
    assert "alarm" not in page.sections["warnings"]


@pytest.mark.filterwarnings("ignore")
def test_a_stop_before_any_measurement_keeps_the_last_weights(watch):
    path = watch(5.0, action="stop") / "alarms.json"
    content = json.loads(path.read_text())
    content["best"] = {"value": None, "step": -1, "file": "checkpoints/before_alarm.ckpt"}
    path.write_text(json.dumps(content))
    assert "those of the last step stayed" in read_alarms(path).outcome()


@pytest.mark.parametrize("alarms", [[], [{"quantity": "kl"}], None, [{"quantity": "kl",
    "value": "9", "limit": None, "step": 4, "since": 3}]])  # fmt: skip
def test_a_damaged_file_is_a_warning_and_no_section(stage, page_of, alarms):
    folder = stage("a2c")
    (folder / "alarms.json").write_text(json.dumps({"action": "stop", "alarms": alarms}))
    assert any("a2c/alarms.json could not" in w for w in warnings_of(read_run(folder.parent)))
    assert "alarms" not in page_of(folder.parent).sections
