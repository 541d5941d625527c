import hashlib
import multiprocessing
import os
import signal
import sys
import time
import zipfile
from pathlib import Path
from threading import Thread

import pytest

from rlaif_pl.data.checksum import seal
from rlaif_pl.pipeline import Stage
from rlaif_pl.pipeline.process import arguments, last_checkpoint, last_lines, stream

STAGE = Stage("sft", "fit", None, {}, (), ())


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("terminal", [False, True])
def test_output_goes_to_the_terminal_and_to_the_log(tmp_path, capsys, terminal):
    code = "import sys; print('out'); print('err', file=sys.stderr); print('end', end='')"
    assert stream(python(code), tmp_path / "log.txt", terminal) == 0
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["end", "err", "out"]
    assert sorted(capsys.readouterr().out.split()) == ["end", "err", "out"]


def test_a_stage_on_a_terminal_sees_a_terminal(tmp_path):
    code = "import sys; print(sys.stdout.isatty())"
    stream(python(code), tmp_path / "yes.txt", True)
    stream(python(code), tmp_path / "no.txt", False)
    assert (tmp_path / "yes.txt").read_text() == "True\n"
    assert (tmp_path / "no.txt").read_text() == "False\n"


def test_a_stage_within_a_job_of_slurm_starts_its_ranks_itself(tmp_path, monkeypatch):
    job = {"SLURM_JOB_NAME": "mine", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    for name, value in {**job, "SLURM_NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(name, value)
    code = (
        "from lightning.fabric.plugins.environments import SLURMEnvironment as S; print(S.detect())"
    )
    stream(python(code), tmp_path / "log.txt", False)
    assert last_lines(tmp_path / "log.txt", 1) == "False"


def test_the_log_keeps_the_last_form_of_a_progress_bar_without_colors(tmp_path):
    code = r"print('10%\r\x1b[32m50%\x1b[0m\r100%'); print('é')"
    stream(python(code), tmp_path / "log.txt", True)
    assert (tmp_path / "log.txt").read_text().splitlines() == ["100%", "é"]


def test_the_log_is_appended_to(tmp_path):
    for word in ("one", "two"):
        stream(python(f"print('{word}')"), tmp_path / "log.txt", False)
    assert last_lines(tmp_path / "log.txt", 1) == "two"
    assert last_lines(tmp_path / "log.txt", 9) == "one\ntwo"
    assert last_lines(tmp_path / "none.txt", 9) == ""


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("1/0", 1)])
def test_the_exit_status_comes_back(tmp_path, code, status):
    assert stream(python(code), tmp_path / "log.txt", False) == status


def test_a_killed_program_gives_128_and_the_signal(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert stream(python(code), tmp_path / "log.txt", False) == 137


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_us(tmp_path):
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(p.pid)"
    )
    began = time.monotonic()
    assert stream(python(code), tmp_path / "log.txt", False) == 0
    assert time.monotonic() - began < 20
    wait_for(lambda: gone(int((tmp_path / "log.txt").read_text())))


def test_an_interrupt_ends_the_program_and_lets_it_finish_its_words(tmp_path):
    def stop(_number, _frame):
        raise KeyboardInterrupt

    code = (
        "import time\n"
        "try:\n"
        "    print('ready'); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('saved')"
    )
    log = tmp_path / "log.txt"

    def interrupt():
        # Well after the word is there: a signal between it and the sleep would be slept through.
        wait_for(lambda: log.is_file() and "ready" in log.read_text())
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, stop)
    Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            stream(python(code), log, False)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert log.read_text().split() == ["ready", "saved"]


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_run_takes_its_stage_with_it(tmp_path):
    log = tmp_path / "log.txt"
    line = python("import os, time; print(os.getpid()); time.sleep(60)")
    fork = multiprocessing.get_context("fork")
    parent = fork.Process(target=stream, args=(line, log, False))
    parent.start()
    wait_for(lambda: log.is_file() and log.read_text().strip())
    child = int(log.read_text())
    assert not gone(child)
    parent.kill()
    parent.join()
    wait_for(lambda: gone(child))


def test_a_checkpoint_in_the_folder_is_gone_on_from(tmp_path):
    config = ["--config", str(tmp_path / "config.yaml")]
    assert arguments(STAGE, tmp_path)[1:] == ["-m", "rlaif_pl", "fit", *config]
    (tmp_path / "checkpoints").mkdir()
    for age, name in ((2, "last.ckpt"), (1, "last-v1.ckpt"), (3, "best.ckpt")):
        (tmp_path / "checkpoints" / name).touch()
        os.utime(tmp_path / "checkpoints" / name, (100 - age, 100 - age))
    newest = str(tmp_path / "checkpoints/last-v1.ckpt")
    assert arguments(STAGE, tmp_path)[-2:] == ["--ckpt_path", newest]
    other = Stage("e", "evaluate policy", None, {}, (), ())
    assert arguments(other, tmp_path)[1:] == ["-m", "rlaif_pl", "evaluate", "policy", *config]


def write_whole(path, content):
    """Write an archive with its checksum."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("r+b") as file:
        seal(file, digest)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert last_checkpoint(folder) is None
    for age, name in ((1, "last.previous.ckpt"), (0, "last.ckpt")):
        write_whole(folder / name, name)
        os.utime(folder / name, (100 - age, 100 - age))
    assert last_checkpoint(folder) == folder / "last.ckpt"
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:-9])
    os.utime(folder / "last.ckpt", (100, 100))
    assert last_checkpoint(folder) == folder / "last.previous.ckpt"
    assert "last.ckpt is damaged; going on from" in capsys.readouterr().err
    (folder / "last.previous.ckpt").write_bytes(b"")
    os.utime(folder / "last.previous.ckpt", (99, 99))
    assert last_checkpoint(folder) == folder / "last.ckpt"  # for `fit` to refuse by name


def gone(pid: int) -> bool:
    """True if the process has ended (a zombie nobody has waited for counts as ended)."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stage_can_be_interrupted_where_a_shell_has_interrupts_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
        assert stream(python(code), tmp_path / "log.txt", False) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert last_lines(tmp_path / "log.txt", 1) == "False"
