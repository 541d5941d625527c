import multiprocessing
import subprocess
import sys
import time

import pytest

from rlaif_pl.data.metric_files import move_aside
from rlaif_pl.pipeline.fingerprint import Fingerprint
from rlaif_pl.pipeline.plan import (
    FolderInUseError,
    StageRecord,
    folder_lock,
    read_record,
)


def test_a_record_reads_back_the_same(tmp_path):
    record = StageRecord("fit", Fingerprint("a", "b", {"c": "d"}, {"e": "f"}), 2, 1.5, 3.0)
    record.write(tmp_path / "done.json")
    assert read_record(tmp_path / "done.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["done.json"]
    assert read_record(tmp_path / "started.json") is None


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"fingerprint": {"config": 1}}'])
def test_a_damaged_record_says_what_to_do(tmp_path, text):
    (tmp_path / "done.json").write_text(text)
    with pytest.raises(ValueError, match=r"done\.json is not a stage record .*delete it"):
        read_record(tmp_path / "done.json")


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with (
        folder_lock(tmp_path),
        pytest.raises(FolderInUseError, match=r"another run \(process \d+\)"),
        folder_lock(tmp_path, patience=0.0),
    ):
        pass
    with folder_lock(tmp_path, patience=0.0):
        pass


def test_a_stage_that_outlives_its_run_keeps_the_folder(tmp_path):
    with folder_lock(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False
        )
    try:
        with pytest.raises(FolderInUseError), folder_lock(tmp_path, patience=0.0):
            pass
    finally:
        child.kill()
        child.wait()
    with folder_lock(tmp_path, patience=1.0):
        pass


def hold(folder, is_held):
    """Be another run for half a second."""
    with folder_lock(folder):
        is_held.set()
        time.sleep(0.5)


def test_waiting_for_the_lock_ends_when_the_other_goes(tmp_path):
    fork = multiprocessing.get_context("fork")
    is_held = fork.Event()
    child = fork.Process(target=hold, args=(tmp_path, is_held))
    child.start()
    assert is_held.wait(60)
    began = time.monotonic()
    with folder_lock(tmp_path, patience=20.0):
        assert time.monotonic() - began < 15
    child.join()
    assert child.exitcode == 0


def test_moving_aside_never_overwrites(tmp_path):
    for number in (1, 2):
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "x").write_text(str(number))
        assert move_aside(tmp_path, tmp_path / "sft") == tmp_path / f"replaced/sft-{number}"
    assert (tmp_path / "replaced/sft-1/x").read_text() == "1"
