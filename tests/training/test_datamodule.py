"""The data module: the right kind of batch, split, labeled and resumed."""

import dataclasses
import logging
import warnings
from collections.abc import Sequence

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import Labeling
from rlaif_pl.data.mixing import PreferencePart
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.sources import DataSource
from rlaif_pl.labeling import LikelihoodLabeler
from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.training.datamodule import PreferenceDataModule
from rlaif_pl.types import Preference, Prompt, Provenance

PAIRS = [Preference(f"p{n // 2}", f"a{n}", f"b{n}", f"g{n // 2}", 0.25) for n in range(40)]
PROMPTS = [Prompt(f"p{n}", f"g{n}", f"ref {n}" if n % 4 else None) for n in range(23)]


class CountingLabeler:
    """Judges by a hash of the prompt; cannot judge ``p3``."""

    def __init__(self, p_first: float = 0.75):
        self.p_first = p_first
        self.asked = 0

    @property
    def fingerprint(self) -> str:
        return f"counting {self.p_first}"

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        self.asked += len(pairs)
        return [self._judge(pair) for pair in pairs]

    def _judge(self, pair):
        if pair.prompt == "p3":
            return dataclasses.replace(pair, provenance=Provenance(failure="malformed"))
        return dataclasses.replace(pair, p_first=self.p_first, source="ai")


@pytest.fixture
def files(tmp_path):
    write_preferences(tmp_path / "pairs.jsonl", PAIRS)
    bare = [dataclasses.replace(pair, p_first=None) for pair in PAIRS]
    write_preferences(tmp_path / "bare.jsonl", bare)
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("pairs", "bare", "prompts")}


def ready(**settings):
    data = PreferenceDataModule(**settings)
    data.prepare_data()
    data.setup("fit")
    return data


def labeling_by(labeler, folder, **settings):
    return Labeling(labeler, store=str(folder / "labels.sqlite"), progress=False, **settings)


def test_each_kind_of_batch(files):
    pairs = ready(preferences=files["pairs"], batch_size=4)
    batch = next(iter(pairs.train_dataloader()))
    assert [row.p_first for row in batch.rows] == [0.25] * 4
    prompts = ready(task="prompts", prompts=files["prompts"], batch_size=4)
    batch = next(iter(prompts.train_dataloader()))
    assert [prompts.train_rows[n].text for n in batch.positions] == batch.prompts
    with pytest.warns(UserWarning, match="without a reference"):
        shown = ready(task="demonstrations", demonstrations=files["prompts"], batch_size=4)
    batch = next(iter(shown.train_dataloader()))
    assert [f"ref {text[1:]}" for text in batch.prompts] == batch.given("reference")


def test_demonstrations_without_reference_are_left_out(files):
    with pytest.warns(UserWarning, match="left out 6 of 23 without a reference"):
        data = ready(task="demonstrations", demonstrations=files["prompts"])
    assert len(data.train_rows) + len(data.validation_rows) == 17
    with (
        pytest.warns(UserWarning, match="left out 20 of 20"),
        pytest.raises(ValueError, match="no row has a reference"),
    ):
        ready(task="demonstrations", demonstrations=files["pairs"])


def test_the_kinds_hold_out_the_same_prompts(files):
    pairs = ready(preferences=files["pairs"], validation_fraction=0.3, seed=4)
    prompts = ready(task="prompts", prompts=files["pairs"], validation_fraction=0.3, seed=4)
    held_out = {row.group for row in pairs.validation_rows}
    assert held_out == {row.group for row in prompts.validation_rows}
    assert not held_out & {row.group for row in pairs.train_rows}


def test_prompts_of_explicit_validation_data_are_left_out_of_training(files, tmp_path):
    write_preferences(tmp_path / "held.jsonl", PAIRS[:6])
    data = ready(preferences=files["pairs"], validation=str(tmp_path / "held.jsonl"))
    assert (len(data.train_rows), len(data.validation_rows)) == (34, 6)
    with pytest.raises(ValueError, match="all 40 rows share prompts with the validation data"):
        ready(preferences=files["pairs"], validation=files["pairs"])


def test_validation_keeps_file_order_and_may_be_absent(files):
    data = ready(preferences=files["pairs"], validation_fraction=0.3, eval_batch_size=64)
    (batch,) = data.val_dataloader()
    assert [row.first for row in batch.rows] == [row.first for row in data.validation_rows]
    assert ready(preferences=files["pairs"], validation_fraction=0.0).val_dataloader() == []


def test_unlabeled_pairs_are_labeled_once_and_failures_left_out(files, tmp_path):
    labeler = CountingLabeler()
    settings = {
        "preferences": files["bare"],
        "labeling": labeling_by(labeler, tmp_path),
    }
    with pytest.warns(UserWarning, match=r"left out 2 of 40 .* \(malformed: 2\)"):
        data = ready(**settings)
    rows = [*data.train_rows, *data.validation_rows]
    assert len(rows) == 38
    assert {(row.p_first, row.source) for row in rows} == {(0.75, "ai")}
    with pytest.warns(UserWarning, match="left out 2"):
        again = ready(**settings)
    assert again.train_rows == data.train_rows
    assert labeler.asked == 40
    with pytest.warns(UserWarning, match="left out 2"):
        ready(**settings | {"labeling": labeling_by(labeler, tmp_path, retry_failed=True)})
    assert labeler.asked == 42


def test_labels_the_data_has_are_kept_unless_relabel_is_set(files, tmp_path):
    labeling = labeling_by(CountingLabeler(), tmp_path)
    kept = ready(preferences=files["pairs"], labeling=labeling)
    assert {row.p_first for row in kept.train_rows} == {0.25}
    assert not (tmp_path / "labels.sqlite").exists()
    with pytest.warns(UserWarning, match="could not judge"):
        new = ready(
            preferences=files["pairs"],
            labeling=labeling_by(CountingLabeler(), tmp_path, relabel=True),
        )
    assert {row.p_first for row in new.train_rows} == {0.75}


def test_what_is_missing_is_named(files, tmp_path):
    with pytest.raises(ValueError, match=r"expected data.prompts, since task is 'prompts', got "):
        PreferenceDataModule(task="prompts", preferences=files["pairs"])
    with pytest.raises(ValueError, match=r"expected data.preferences.* got no source"):
        PreferenceDataModule()
    with pytest.raises(ValueError, match="a labeler, since 40 pairs have no label"):
        ready(preferences=files["bare"])
    data = PreferenceDataModule(
        preferences=files["bare"], labeling=labeling_by(CountingLabeler(), tmp_path)
    )
    with pytest.raises(ValueError, match="40 are missing; label the pairs first"):
        data.setup("fit")


def test_a_labeler_that_can_judge_nothing_stops_the_run(files, tmp_path):
    labeler = CountingLabeler()
    labeler._judge = lambda pair: dataclasses.replace(pair, provenance=Provenance(failure="down"))
    with (
        pytest.warns(UserWarning, match="down: 40"),
        pytest.raises(ValueError, match="could judge none of 40 pairs"),
    ):
        ready(preferences=files["bare"], labeling=labeling_by(labeler, tmp_path))
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert len(store) == 40


def test_every_setting_can_be_given_in_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PreferenceDataModule, "data")
    config = parser.parse_object(
        {
            "data": {
                "preferences": {"name": "x.json", "confidence": [1, 9], "columns": {"group": "id"}},
                "validation": "tiny_tldr/dev",
                "labeling": {
                    "labeler": {"class_path": f"{__name__}.CountingLabeler", "init_args": {}},
                    "relabel": True,
                    "store": "mine.sqlite",
                },
            }
        }
    )
    data = parser.instantiate(config).data
    assert data.source == DataSource("x.json", columns={"group": "id"}, confidence=[1, 9])
    assert data.validation == "tiny_tldr/dev"
    assert data.labeling.labeler.p_first == 0.75
    assert data.labeling.relabel
    assert data.labeling.store == "mine.sqlite"
    named = ["--data.preferences=x", f"--data.labeling.labeler={__name__}.CountingLabeler"]
    config = parser.parse_args([*named, "--data.labeling.retry_failed=true"])
    labeling = parser.instantiate(config).data.labeling
    assert isinstance(labeling.labeler, CountingLabeler)
    assert (labeling.retry_failed, labeling.relabel) == (True, False)
    with pytest.raises(ArgumentError, match="limt"):
        parser.parse_object({"data": {"preferences": {"name": "x", "limt": 3}}})


class Watcher(LightningModule):
    """Remembers which prompts it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        assert not any(batch.is_padding)
        self.seen.append((self.current_epoch, batch_idx, list(batch.positions)))
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Kill(Callback):
    """Ends a run after a batch, behind the back of the loops, as a kill would."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, *parts):
        if len(parts[1].seen) == self.after:
            raise SystemExit


def fit(path, folder, kill=None, resume=None, **settings):
    model = Watcher()
    data = PreferenceDataModule("prompts", prompts=path, batch_size=3, seed=5)
    checkpoint = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)
    callbacks = [checkpoint, *([] if kill is None else [Kill(kill)])]
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 3, **settings},
    )
    trainer.fit(model, data, ckpt_path=resume)
    return model.seen


@pytest.fixture
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("killed_after", [2, 7, 9, 14])
@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2}, {"max_steps": 17}])
def test_a_killed_run_sees_the_batches_it_had_not_seen(files, tmp_path, killed_after, settings):
    # 20 or so rows in batches of 3: 7 batches an epoch, so 7 and 14 are ends of epochs
    whole = fit(files["prompts"], tmp_path / "whole", **settings)
    with pytest.raises(SystemExit):
        fit(files["prompts"], tmp_path / "cut", kill=killed_after, **settings)
    last = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    rest = fit(
        files["prompts"], tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt", **settings
    )
    assert rest == whole[last["global_step"] :]
    assert last["global_step"] in (killed_after, killed_after - 1)


@pytest.mark.usefixtures("quiet")
def test_a_run_that_was_stopped_by_max_steps_goes_on_where_it_was(files, tmp_path):
    whole = fit(files["prompts"], tmp_path / "whole")
    first = fit(files["prompts"], tmp_path / "cut", max_steps=4)
    rest = fit(files["prompts"], tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert first + rest == whole
    assert len({tuple(batch[2]) for batch in whole}) > len(whole) // 2


@pytest.mark.usefixtures("quiet")
def test_overfitting_repeats_the_same_batches(files, tmp_path):
    seen = fit(files["prompts"], tmp_path, overfit_batches=2, max_epochs=2)
    assert [batch[2] for batch in seen[:2]] == [batch[2] for batch in seen[2:]]


class Tally(LightningModule):
    """Counts real rows over all ranks."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows = 0.0

    def training_step(self, batch, *_):
        self.rows += float(batch.is_padding.count(False))
        return self.weight

    def validation_step(self, batch, *_):
        counted = torch.tensor(float(batch.is_padding.count(False)))
        self.log("counted", counted, reduce_fx="sum", sync_dist=True, batch_size=1)

    def on_train_epoch_end(self):
        self.log("trained", self.rows, reduce_fx="sum", sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.usefixtures("quiet")
def test_two_processes_count_every_row_once_and_label_once(files, tmp_path):
    data = PreferenceDataModule(
        preferences=files["bare"],
        labeling=labeling_by(CountingLabeler(), tmp_path),
        batch_size=4,
        eval_batch_size=2,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Tally(), data)
    data.setup("fit")
    assert trainer.callback_metrics["trained"] == len(data.train_rows)
    assert trainer.callback_metrics["counted"] == len(data.validation_rows)
    assert len(data.train_rows) + len(data.validation_rows) == 38


def test_several_sources_are_one_set_with_their_weights(files, tmp_path):
    other = [dataclasses.replace(pair, group=f"other {pair.group}", p_first=0.9) for pair in PAIRS]
    write_preferences(tmp_path / "other.jsonl", other)
    mix = [
        PreferencePart(files["pairs"], weight=2.0),
        PreferencePart(DataSource(str(tmp_path / "other.jsonl"), limit=10), temperature=2.0),
    ]
    data = ready(preferences=mix, validation_fraction=0.2)
    rows = [*data.train_rows, *data.validation_rows]
    found = [(row.weight, round(row.p_first, 6)) for row in rows]
    assert sorted(set(found)) == [(1.0, 0.75), (2.0, 0.25)]
    assert (found.count((1.0, 0.75)), found.count((2.0, 0.25))) == (10, 40)


def test_a_labelers_model_is_let_go_once_its_labels_are_kept(
    tiny_model_folder, data_files, tmp_path
):
    backend = LocalBackend(str(tiny_model_folder), device="cpu")
    labeler = LikelihoodLabeler(backend)
    store = str(tmp_path / "labels.sqlite")
    data = PreferenceDataModule(
        "pairs", preferences=data_files.unlabeled, labeling=Labeling(labeler, store=store)
    )
    data.prepare_data()
    assert not {"backbone", "top", "unembedding"} & vars(backend.model).keys()
    assert not {"runner", "encoder"} & vars(backend).keys()
    data.setup("fit")
    assert data.train_rows
    (again,) = labeler.label([data.train_rows[0]])  # it is read again
    assert again.p_first == pytest.approx(data.train_rows[0].p_first)
