"""A run over several nodes: each stage starts once, those that span nodes on every node."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.pipeline import load_experiment, nodes, run

EXPERIMENT = """
name: toy
out: {out}
stages:
  - {{name: sft, command: fit, set: {{trainer.num_nodes: 2}}, produces: [policy.txt]}}
  - {{name: label, command: label}}
  - {{name: a2c, command: fit, set: {{trainer.num_nodes: 2}}}}
"""
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "BEAT", 0.1)
    path = tmp_path / "toy.yaml"
    path.write_text(EXPERIMENT.format(out=tmp_path / "run"))
    return path


def note(folder: Path, name: str, rank: int) -> None:
    """Note a start of a stage's process, and where its processes are to meet."""
    place = {key: os.environ.get(key) for key in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")}
    (folder.parent.parent / f"started-{time.time_ns()}").write_text(
        json.dumps({"stage": name, "rank": rank, **place})
    )


def main_node(file, fails=None, wait=True):
    def launch(stage, folder):
        note(folder, stage.name, 0)
        partner = folder / "partner"
        while wait and nodes.num_nodes(load_experiment(file), stage) > 1 and not partner.exists():
            time.sleep(0.01)
        for name in stage.produces:
            (folder / name).touch()
        return 7 if stage.name == fails else 0

    sys.exit(run(file, launch=launch, nodes=2, main_address="main"))


def other_node(file, code=0):
    def launch(line, log, terminal):
        note(log.parent, log.parent.name, 1)
        assert line[1:4] == ["-m", "rlaif_pl", "fit"]
        assert log.name == "log-node1.txt"
        (log.parent / "partner").touch()
        return code

    sys.exit(nodes.follow(load_experiment(file), 1, launch))


def together(file, main, other):
    """Run both; returns their exit statuses and what was started."""
    processes = [FORK.Process(target=main_node, args=(file, *main), daemon=True)]
    processes.append(FORK.Process(target=other_node, args=(file, *other), daemon=True))
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    started = [json.loads(path.read_text()) for path in sorted(file.parent.glob("started-*"))]
    return [process.exitcode for process in processes], started


def names(started):
    return sorted((each["stage"], each["rank"]) for each in started)


def test_each_stage_starts_once_and_the_others_join_those_that_span_nodes(file):
    codes, started = together(file, (), ())
    assert codes == [0, 0]
    assert names(started) == [("a2c", 0), ("a2c", 1), ("label", 0), ("sft", 0), ("sft", 1)]
    for stage in ("sft", "a2c"):
        one, two = sorted((s for s in started if s["stage"] == stage), key=lambda s: s["rank"])
        assert (one["NODE_RANK"], two["NODE_RANK"]) == ("0", "1")
        assert one["MASTER_ADDR"] == two["MASTER_ADDR"] == "main"
        assert one["MASTER_PORT"] == two["MASTER_PORT"]
    codes, again = together(file, (), ())  # all is finished: nobody waits for anybody
    assert codes == [0, 0]
    assert again == started


def test_a_failure_ends_all_nodes_and_the_next_run_goes_on(file):
    codes, _ = together(file, ("label",), ())
    assert codes == [7, 7]
    for path in file.parent.glob("started-*"):
        path.unlink()
    codes, started = together(file, (), ())
    assert codes == [0, 0]
    assert names(started) == [("a2c", 0), ("a2c", 1), ("label", 0)]


def test_a_part_that_fails_on_another_node_ends_the_stage(file, monkeypatch, capfd):
    monkeypatch.setattr(nodes, "GRACE", 0.3)

    def forever(file):
        def launch(stage, folder):
            time.sleep(60)

        sys.exit(run(file, launch=launch, nodes=2))

    main = FORK.Process(target=forever, args=(file,), daemon=True)
    other = FORK.Process(target=other_node, args=(file, 3), daemon=True)
    for process in (main, other):
        process.start()
    for process in (main, other):
        process.join(30)
    assert (main.exitcode, other.exitcode) == (143, 143)
    assert "node 1 failed in the stage sft; its log is" in capfd.readouterr().err


def test_nodes_that_do_not_come_or_answer_are_named(file, monkeypatch):
    monkeypatch.setattr(nodes, "ARRIVAL", 0.3)
    with pytest.raises(RuntimeError, match=r"expected 2 nodes, node 1 did not come in 0.3 s"):
        run(file, nodes=2)
    with pytest.raises(RuntimeError, match="expected a sign of life of node 0 in .*0.json"):
        nodes.follow(load_experiment(file), 1)


def test_a_number_of_nodes_that_does_not_fit_is_refused(file, capsys):
    for count in (1, 3):
        with pytest.raises(ValueError, match="'sft': expected trainer.num_nodes of 1 or .* got 2"):
            run(file, nodes=count)
    with pytest.raises(SystemExit):
        cli.main(["run", str(file), "--nodes", "2", "--node_rank", "2"])
    assert "expected --node_rank from 0 to 1" in capsys.readouterr().err
