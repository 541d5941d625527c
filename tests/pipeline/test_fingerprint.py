import os
from pathlib import Path

from rlaif_pl.pipeline.experiment import load_experiment
from rlaif_pl.pipeline.fingerprint import (
    LATE_PARTS,
    PACKAGE,
    code_digest,
    data_digests,
    fingerprints,
)


def of(toy, stage, **options):
    return fingerprints(load_experiment(toy.file, **options))[stage]


def test_another_run_folder_changes_nothing(toy):
    assert of(toy, "report") == of(toy, "report", out=Path("elsewhere"))


def test_a_seed_changes_the_stages_that_use_it_and_those_below(toy):
    old, new = of(toy, "sft"), of(toy, "sft", seed=4)
    assert new.changes_since(old) == ["config"]
    old, new = of(toy, "label"), of(toy, "label", seed=4)
    assert new.changes_since(old) == ["upstream sft"]


def test_a_local_data_file_counts_by_its_contents(toy, monkeypatch):
    monkeypatch.chdir(toy.folder)
    (toy.folder / "posts.jsonl").write_text("one")
    toy.change("model: tiny", "data: posts.jsonl", "sft.yaml")
    old = of(toy, "sft")
    os.utime(toy.folder / "posts.jsonl", (1, 1))
    assert of(toy, "sft") == old
    (toy.folder / "posts.jsonl").write_text("two")
    assert of(toy, "sft").changes_since(old) == ["data posts.jsonl"]


def test_folders_count_and_the_run_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/a", "run/sft", "cpu"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text("x")
    config = {"model": "models/a", "device": "cpu", "own": "run/sft/x", "all": str(tmp_path)}
    digests = dict(data_digests(config, tmp_path / "run"))
    assert list(digests) == ["models/a"]
    (tmp_path / "models/a/x").write_text("y")
    assert dict(data_digests(config, tmp_path / "run")) != digests


WRITES = {
    "sft": "rollout: {init_args: {adapter_dir: weights/new}}\ndata: {labeling: {store: s.sqlite}}\n"
    "default_callbacks: {export_to: weights/new}\n"
    "trainer: {callbacks: [{class_path: rlaif_pl.training.callbacks.ExportModel, "
    "init_args: {folder: weights/new, form: adapter}}]}",
    "label": "{replies: r.sqlite, store: s.sqlite, out: weights/new}",
}


def test_what_a_stage_writes_does_not_start_it_over(toy, monkeypatch):
    monkeypatch.chdir(toy.folder)
    toy.change("model: tiny", WRITES["sft"], "sft.yaml")
    toy.change('{policy: "${out}/sft/policy.txt"}', WRITES["label"])
    before = {stage: of(toy, stage) for stage in WRITES}
    (toy.folder / "weights/new").mkdir(parents=True)
    for name in ("weights/new/policy-1", "s.sqlite", "r.sqlite"):
        (toy.folder / name).write_text("written")
        assert {stage: of(toy, stage) for stage in WRITES} == before


def test_a_folder_that_another_class_reads_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts/a").mkdir(parents=True)
    config = {"callbacks": [{"class_path": "mine.Reader", "init_args": {"folder": "texts/a"}}]}
    assert list(dict(data_digests(config, tmp_path / "run"))) == ["texts/a"]


def test_replies_to_export_are_data(toy, monkeypatch):
    monkeypatch.chdir(toy.folder)
    (toy.folder / "r.sqlite").write_text("one")
    toy.change("command: report", "command: export")
    toy.change('run_dir: "${out}"', "replies: r.sqlite")
    assert list(of(toy, "report").data) == ["r.sqlite"]


def test_edited_code_counts_except_parts_that_only_look_at_results(tmp_path):
    for name in ("ops", "eval", "eval/page", "eval/pages", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1")

    def digests():
        return code_digest(tmp_path, ()), code_digest(tmp_path, ("eval/page",))

    everything, early = digests()
    (tmp_path / "__pycache__" / "a.py").write_text("2")
    assert digests() == (everything, early)
    (tmp_path / "eval/page/a.py").write_text("2")
    assert digests()[0] != everything
    assert digests()[1] == early
    for name in ("ops", "eval", "eval/pages"):
        (tmp_path / name / "a.py").write_text("2")
        assert digests()[1] != early
        early = digests()[1]


def test_the_parts_that_only_look_at_results_are_there():
    assert [part for part in LATE_PARTS if not (PACKAGE / part).is_dir()] == []


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("{}")
    assert list(dict(data_digests({"a": "~/rows.jsonl"}, tmp_path / "run"))) == ["~/rows.jsonl"]
