"""Labels through ``predict``: two uneven ranks equal one process, and a kill loses nothing."""

import json
from dataclasses import replace
from functools import wraps

import pytest
import yaml
from two_ranks import run_in_two_processes

from rlaif_pl.cli import main as cli
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.labeling import LikelihoodLabeler
from rlaif_pl.types import Provenance

LABEL = LikelihoodLabeler.label


def watched(monkeypatch):
    """List the pairs that the labeler is asked about from here on."""
    asked = []

    @wraps(LABEL)
    def label(self, pairs):
        asked.extend(pairs)
        return LABEL(self, pairs)

    monkeypatch.setattr(LikelihoodLabeler, "label", label)
    return asked


@pytest.fixture
def config(tmp_path, tiny_model_folder, small_pairs):
    """Write the config of seven pairs in batches of two; returns a function of the ranks."""
    pairs = [replace(pair, p_first=None, source=None) for pair in small_pairs[:6]]
    pairs.insert(3, replace(pairs[0], prompt="word " * 2000, group="long"))
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    labeler = {
        "class_path": "rlaif_pl.labeling.LikelihoodLabeler",
        "init_args": {"backend": str(tiny_model_folder), "temperature": 0.5},
    }

    def write(ranks):
        out = tmp_path / f"out{ranks}"
        config = {
            "trainer": {
                "accelerator": "cpu",
                "devices": ranks,
                "strategy": "ddp" if ranks > 1 else "auto",
                "logger": False,
                "enable_progress_bar": False,
            },
            "model": {
                "class_path": "rlaif_pl.training.LabelingModule",
                "init_args": {
                    "out": str(out),
                    "labeler": labeler,
                    "store": str(out / "labels.sqlite"),
                },
            },
            "data": {
                "task": "comparisons",
                "preferences": str(tmp_path / "pairs.jsonl"),
                "eval_batch_size": 2,
            },
        }
        file = tmp_path / f"predict{ranks}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file, out

    return write


def lines(out):
    return {path.name: path.read_text().splitlines() for path in (out / "parts").iterdir()}


@pytest.mark.slow
def test_two_ranks_equal_one_process_and_no_pair_comes_twice(config, tiny_model_folder):
    file, two = config(2)
    run_in_two_processes([("predict", file)], file.parent)
    file, one = config(1)
    assert cli.main(["predict", "--config", str(file)]) == 0
    # 7 pairs: global batches of 4 and 3; rank 0 takes 2 + 2 and rank 1 takes 2 + 1.
    assert sorted(map(len, lines(two).values())) == [3, 4]
    assert [len(part) for part in lines(one).values()] == [7]
    prompts = [json.loads(line)["prompt"] for part in lines(two).values() for line in part]
    assert len(set(prompts)) == 7
    ours, theirs = (load_preferences(str(out / "labeled.jsonl")).rows for out in (one, two))
    assert len(ours) == 6  # the long one has no label
    for a, b in zip(ours, theirs, strict=True):
        assert (a.prompt, a.first, a.second, a.group) == (b.prompt, b.first, b.second, b.group)
        assert a.p_first == pytest.approx(b.p_first, abs=1e-5)
    for out in (one, two):
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["label/labeled"] == 6
        assert metrics["label/failed_too_long"] == 1
        with LabelStore(out / "labels.sqlite") as store:
            labeler = LikelihoodLabeler(str(tiny_model_folder), temperature=0.5)
            assert [row.p_first for _, row in store.look_up(labeler.fingerprint, ours)] == [
                pytest.approx(row.p_first, abs=1e-5) for row in ours
            ]


LATE = """
import os, time
from collections.abc import Sequence
from rlaif_pl.labeling import LikelihoodLabeler
from rlaif_pl.types import Preference

class Late(LikelihoodLabeler):
    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        if os.environ["RANK"] == "1":
            time.sleep(8)
        return super().label(pairs)
"""


@pytest.mark.slow
def test_a_rank_that_is_done_waits_longer_than_a_collective_does(config, monkeypatch):
    """After a kill one rank may have hours of labels to ask for again, and another none."""
    file, out = config(2)
    (file.parent / "late_labeler.py").write_text(LATE)
    monkeypatch.syspath_prepend(file.parent)
    written = yaml.safe_load(file.read_text())
    written["model"]["init_args"]["labeler"]["class_path"] = "late_labeler.Late"
    timeout = {"timeout": "0:00:10"}  # of half an hour; the late rank takes 16 s for two batches
    written["trainer"]["strategy"] = {
        "class_path": "lightning.pytorch.strategies.DDPStrategy",
        "init_args": timeout,
    }
    file.write_text(yaml.safe_dump(written))
    run_in_two_processes([("predict", file)], file.parent)
    assert len(load_preferences(str(out / "labeled.jsonl")).rows) == 6


def test_a_repeated_run_asks_only_for_what_is_missing(config, monkeypatch):
    file, out = config(1)
    assert cli.main(["predict", "--config", str(file)]) == 0
    expected = (out / "labeled.jsonl").read_text()
    (part,) = (out / "parts").iterdir()
    kept = part.read_text().splitlines(keepends=True)
    # Four labels of another rank, and one that was cut while it was written.
    part.with_name(part.name.replace("00000", "00001")).write_text("".join(kept[:4]))
    part.write_text(kept[4][:20])
    asked = watched(monkeypatch)
    assert cli.main(["predict", "--config", str(file)]) == 0
    assert [pair.prompt for pair in asked] == [json.loads(line)["prompt"] for line in kept[4:]]
    assert (out / "labeled.jsonl").read_text() == expected


def test_a_label_that_is_there_already_is_not_shown_to_the_labeler(
    config, monkeypatch, small_pairs
):
    file, out = config(1)
    write_preferences(file.parent / "pairs.jsonl", small_pairs[:3])
    seen = watched(monkeypatch)
    assert cli.main(["predict", "--config", str(file)]) == 0
    assert [(pair.p_first, pair.source) for pair in seen] == [(None, None)] * 3
    rows = load_preferences(str(out / "labeled.jsonl")).rows
    assert [row.weight for row in rows] == [pair.weight for pair in small_pairs[:3]]
    assert {row.provenance.strategy for row in rows} == {"likelihood"}


def test_a_repeated_run_asks_again_for_failures_that_may_pass(config, monkeypatch):
    file, out = config(1)

    @wraps(LABEL)
    def timed_out(self, pairs):
        late = Provenance(strategy="likelihood", failure="timeout")
        return [replace(pair, p_first=None, provenance=late) for pair in pairs]

    monkeypatch.setattr(LikelihoodLabeler, "label", timed_out)
    assert cli.main(["predict", "--config", str(file)]) == 0
    asked = watched(monkeypatch)
    assert cli.main(["predict", "--config", str(file)]) == 0
    assert len(asked) == 7
    assert len(load_preferences(str(out / "labeled.jsonl")).rows) == 6
    assert cli.main(["predict", "--config", str(file)]) == 0
    assert len(asked) == 7  # the one that is too long stays so
