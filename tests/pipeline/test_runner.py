import json
import signal
import sys
import warnings

import pytest

from rlaif_pl.pipeline import FolderInUseError
from rlaif_pl.pipeline.plan import folder_lock
from rlaif_pl.pipeline.process import stream
from rlaif_pl.pipeline.runner import Interrupted

ALL = ["sft", "label", "report"]


def metrics(toy):
    return json.loads((toy.out / "metrics.json").read_text())


def test_a_new_experiment_runs_every_stage_in_order(toy, capsys):
    assert toy.run() == 0
    assert toy.launched == ALL
    assert (toy.out / "sft/config.yaml").read_text().splitlines()[1:] == [
        "optimizer:",
        "  lr: 0.0001",
        "model: tiny",
        "seed_everything: 3",
        "trainer:",
        f"  default_root_dir: {toy.out}/sft",
    ]
    done = json.loads((toy.out / "sft/done.json").read_text())
    assert done["attempts"] == 1
    assert done["command"].startswith("-m rlaif_pl fit --config ")
    assert "stage label: run label" in capsys.readouterr().out


def test_finished_stages_are_skipped_with_a_line(toy, capsys):
    toy.run()
    capsys.readouterr()
    assert toy.run() == 0
    assert toy.launched == []
    assert "stage sft: skipped, finished in 0.0 s" in capsys.readouterr().out


def test_a_dry_run_changes_nothing(toy, capsys):
    assert toy.run(dry_run=True) == 0
    assert toy.launched == []
    assert not toy.out.exists()
    toy.run()
    toy.change("1e-4", "1e-3", "sft.yaml")
    assert toy.run(dry_run=True) == 0
    assert "rerun changed: config" in " ".join(capsys.readouterr().out.split())
    assert (toy.out / "sft/done.json").exists()


def test_a_changed_config_reruns_the_stage_and_those_below_and_keeps_the_old(toy, capsys):
    toy.run()
    toy.change("1e-4", "1e-3", "sft.yaml")
    assert toy.run() == 0
    assert toy.launched == ALL
    said = " ".join(capsys.readouterr().out.split())
    assert "sft starts over (changed: config (optimizer.lr: 0.0001 -> 0.001))" in said
    assert f"its finished folder is kept as {toy.out}/replaced/sft-1" in said
    assert "label starts over (changed: upstream sft)" in said
    assert "lr: 0.0001" in (toy.out / "replaced/sft-1/config.yaml").read_text()


def test_a_change_lower_down_leaves_what_is_above(toy):
    toy.run()
    toy.change("policy: ", "n: 3, policy: ")
    assert toy.run() == 0
    assert toy.launched == ["label", "report"]


def test_edited_code_is_said(toy, capsys, monkeypatch):
    toy.run()
    monkeypatch.setattr(
        "rlaif_pl.pipeline.fingerprint.code_digest", lambda _package, _without: "other"
    )
    assert toy.run() == 0
    assert toy.launched == ALL
    assert "sft starts over (changed: code)" in " ".join(capsys.readouterr().out.split())


def test_force_reruns_the_stage_and_those_that_need_it(toy):
    toy.run()
    assert toy.run(force=["label"]) == 0
    assert toy.launched == ["label", "report"]


def test_a_run_killed_after_force_still_reruns_what_stands_below(toy):
    toy.run()
    toy.code["label"] = 9
    assert toy.run(force=["sft"]) == 9
    toy.code.clear()
    assert toy.run() == 0
    assert toy.launched == ["label", "report"]


def test_force_of_no_stage_is_refused(toy):
    with pytest.raises(ValueError, match="--force lable: no such stage; the stages are sft, label"):
        toy.run(force=["lable"])


def test_a_failed_stage_stops_the_run_and_names_its_log(toy, capsys):
    toy.code["label"] = 7
    assert toy.run() == 7
    assert toy.launched == ["sft", "label"]
    said = " ".join(capsys.readouterr().out.split())
    assert "stage label failed: with exit status 7" in said
    assert f"the whole log is {toy.out}/label/log.txt" in said
    assert "hello from label" in said
    assert "not reached" in said


def test_a_stage_without_its_product_failed(toy, capsys):
    toy.change("produces: [policy.txt]", "produces: [policy.txt, a/b.json]")
    toy.launch = lambda _stage, _folder: 0
    assert toy.run() == 1
    assert "it did not make policy.txt, a/b.json" in " ".join(capsys.readouterr().out.split())
    assert not (toy.out / "sft/done.json").exists()


def test_an_interrupted_stage_resumes_in_its_folder(toy, capsys):
    def interrupt(_stage, folder):
        (folder / "progress").write_text("half")
        raise Interrupted(signal.SIGTERM)

    toy.before_end = interrupt
    assert toy.run() == 128 + signal.SIGTERM
    assert "sft was interrupted; the same command goes on" in capsys.readouterr().out
    toy.before_end = lambda _stage, _folder: None
    assert toy.run() == 0
    assert (toy.out / "sft/progress").read_text() == "half"
    assert json.loads((toy.out / "sft/done.json").read_text())["attempts"] == 2
    assert (toy.out / "sft/log.txt").read_text() == "hello from sft\n" * 2


def test_an_interrupted_stage_with_another_config_starts_over(toy, capsys):
    def interrupt(_stage, folder):
        (folder / "progress").write_text("half")
        raise KeyboardInterrupt

    toy.before_end = interrupt
    assert toy.run() == 130
    toy.before_end = lambda _stage, _folder: None
    toy.change("1e-4", "1e-3", "sft.yaml")
    assert toy.run() == 0
    assert not (toy.out / "sft/progress").exists()
    said = " ".join(capsys.readouterr().out.split())
    assert "sft starts over (unfinished and changed: config" in said
    assert "its unfinished folder is kept as" in said


def test_a_lost_product_reruns_the_stage_and_those_below(toy):
    toy.run()
    (toy.out / "sft/policy.txt").unlink()
    assert toy.run() == 0
    assert toy.launched == ALL


def test_foreign_files_in_a_stage_folder_are_moved_aside(toy):
    (toy.out / "sft").mkdir(parents=True)
    (toy.out / "sft/mine.txt").write_text("precious")
    assert toy.run() == 0
    assert (toy.out / "replaced/sft-1/mine.txt").read_text() == "precious"


def test_metrics_are_merged_and_what_differs_is_kept_by_stage_without_a_warning(toy):
    toy.metrics = {
        "sft": {"loss": 1.0, "same": 2.0, "none": None},
        "label": {"loss": 3.0, "same": 2.0, "none": None, "n": 4},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert toy.run() == 0
    merged = metrics(toy)
    assert (merged["sft:loss"], merged["label:loss"]) == (1.0, 3.0)
    assert "loss" not in merged
    assert [merged[key] for key in ("same", "n", "none")] == [2.0, 4, None]
    stages = [merged[f"run/seconds_{name}"] for name in ALL]
    assert merged["run/seconds"] == pytest.approx(sum(stages), abs=0.002)


def test_metrics_so_far_are_there_when_a_later_stage_runs(toy):
    toy.metrics = {"label": {"labeler/alignment": 0.75}}
    seen = {}

    def look(stage, _folder):
        if stage.name == "report":
            seen.update(metrics(toy))

    toy.before_end = look
    assert toy.run() == 0
    assert seen["labeler/alignment"] == 0.75
    assert "run/seconds_label" in seen


def test_a_folder_in_use_is_refused(toy, monkeypatch):
    monkeypatch.setattr("rlaif_pl.pipeline.runner.folder_lock", lambda out: folder_lock(out, 0.0))
    with folder_lock(toy.out), pytest.raises(FolderInUseError, match="choose another folder"):
        toy.run()


def test_sigterm_reaches_a_running_stage_as_an_interrupt(toy):
    toy.before_end = lambda _stage, _folder: signal.raise_signal(signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    assert toy.run() == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_stages_can_be_processes(toy, capfd):
    def launch(_stage, folder):
        code = f"import os; print(os.getpid()); open({str(folder / 'policy.txt')!r}, 'w').close()"
        return stream([sys.executable, "-c", code], folder / "log.txt", False)

    toy.launch = launch
    assert toy.run() == 0
    pids = [(toy.out / name / "log.txt").read_text().strip() for name in ALL]
    assert len(set(pids)) == 3
    said = capfd.readouterr().out.splitlines()
    assert all(pid in said for pid in pids)
