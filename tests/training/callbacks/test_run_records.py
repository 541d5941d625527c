import json
import re
import subprocess
from datetime import UTC, datetime

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule

from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.ops import use_reference
from rlaif_pl.training.callbacks import MetricsFile, RunMetadata, SampleTable
from rlaif_pl.training.callbacks.run_records import commit_of, gather, version_of


def test_facts_are_written_when_a_fit_starts(tmp_path, fit):
    fit(callbacks=[RunMetadata()])
    facts = json.loads((tmp_path / "run_facts.json").read_text())
    assert facts["torch"] == torch.__version__
    assert facts["device"].startswith("cpu (")
    assert set(facts["ops"].values()) <= {"compiled", "reference"}
    # Linear(2, 1) has 2 weights and a bias; 7 more numbers are frozen.
    assert (facts["trainable_parameters"], facts["parameters"]) == (3, 10)


def test_facts_say_which_ops_ran_the_reference(fit, tiny):
    trainer = fit()
    with use_reference():
        facts = gather(trainer, tiny(), datetime(2025, 1, 2, tzinfo=UTC))
    assert set(facts["ops"].values()) == {"reference"}
    assert facts["started"] == "2025-01-02T00:00:00+00:00"


def test_a_shared_weight_counts_once(fit, tiny):
    module = tiny()
    module.twin = module.layer
    assert gather(fit(), module, datetime.now(UTC))["parameters"] == 10


def test_the_commit_is_that_of_the_checkout_and_marked_where_files_differ(tmp_path):
    assert commit_of(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "x").write_text("1")
    for line in (["init", "-q"], ["add", "x"], [*identity, "commit", "-qm", "m"]):
        subprocess.run(["git", "-C", str(tmp_path), *line], check=True)
    commit = commit_of(tmp_path)
    assert len(commit) == 12
    (tmp_path / "x").write_text("2")
    assert commit_of(tmp_path) == commit + "+changes"


def test_an_absent_package_has_no_version():
    assert version_of("surely-not-installed") is None


def test_metrics_hold_the_last_value_of_what_was_logged(tmp_path, fit):
    trainer = fit(callbacks=[MetricsFile()])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"toy/train_loss", "toy/val_loss"}
    assert metrics["toy/val_loss"] == trainer.callback_metrics["toy/val_loss"].item()


def test_a_metric_that_is_not_finite_is_null_with_a_warning(tmp_path, fit, tiny):
    with pytest.warns(UserWarning, match="written as null: toy/train_loss"):
        fit(tiny(breaks_at=3), callbacks=[MetricsFile()])
    assert json.loads((tmp_path / "metrics.json").read_text())["toy/train_loss"] is None


def test_samples_are_written_every_n_steps(tmp_path, fit):
    fit(callbacks=[SampleTable(every_n_steps=2, num_samples=2)], max_steps=5)
    rows = read_table(tmp_path / "samples.csv").rows
    assert [(row["step"], row["response"]) for row in rows] == [
        (step, reply) for step in "135" for reply in ("reply 0", "reply 1")
    ]
    assert rows[2]["prompt"] == 'post "2",\nnew line'
    assert float(rows[3]["reward"]) == 0.1


def test_accumulated_batches_write_samples_once(tmp_path, fit):
    fit(callbacks=[SampleTable(1, 1)], accumulate_grad_batches=2, max_steps=2)
    assert [row["step"] for row in read_table(tmp_path / "samples.csv").rows] == ["1", "2"]


def test_a_resumed_run_writes_the_samples_after_its_checkpoint_again(tmp_path, fit):
    table = SampleTable(every_n_steps=1, num_samples=1)
    trainer = fit(callbacks=[table], max_steps=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(callbacks=[SampleTable(1, 1)], max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    fit(callbacks=[SampleTable(1, 1)], max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert [row["step"] for row in read_table(tmp_path / "samples.csv").rows] == list("1234")


def test_steps_counted_from_before_an_update_are_not_written_twice(tmp_path, fit, tiny):
    class Before(tiny):
        def training_step(self, batch):
            loss = super().training_step(batch)
            self.latest_samples = [(n - 1, *rest) for n, *rest in self.latest_samples]
            return loss

    trainer = fit(Before(), callbacks=[SampleTable(1, 1)], max_steps=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    for _ in range(2):
        fit(Before(), callbacks=[SampleTable(1, 1)], max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert [row["step"] for row in read_table(tmp_path / "samples.csv").rows] == list("0123")


def test_a_module_that_does_not_sample_is_named(fit, tiny):
    class Silent(tiny):
        def training_step(self, batch):
            loss = super().training_step(batch)
            del self.latest_samples
            return loss

    with pytest.warns(UserWarning, match="Silent offers no latest_samples at step 1"):
        fit(Silent(), callbacks=[SampleTable()])


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"num_samples": 0}])
def test_counts_below_one_are_refused(options):
    with pytest.raises(ValueError, match=r"expected SampleTable\.\w+ of at least 1, got 0"):
        SampleTable(**options)


@pytest.mark.parametrize(
    ("source", "show_text", "is_shown"),
    [
        ("tiny_tldr/train", None, True),
        ("tiny_requests/train", None, False),
        ("tiny_requests/train", True, True),
        ("tiny_tldr/train", False, False),
    ],
)
def test_harmful_samples_are_hashes_unless_texts_are_asked_for(
    tmp_path, fit, source, show_text, is_shown
):
    class WithSource(Callback):
        def on_train_start(self, trainer, _):
            trainer.datamodule = LightningDataModule()
            trainer.datamodule.source = source

    fit(callbacks=[WithSource(), SampleTable(1, 1, show_text)], max_steps=1)
    (row,) = read_table(tmp_path / "samples.csv").rows
    assert (row["response"] == "reply 0") is is_shown
    assert (
        re.fullmatch(r"\[[0-9a-f]{8}, 2 words, not shown\]", row["response"]) is None
    ) is is_shown
