"""A process that dies or hangs is named; torchrun's restart ends with the unbroken run's numbers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore
from two_ranks import component, environment, small_fit

from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.training.peers import Peers, accept, explained, invite, is_of_collectives

PATIENCE = 300  # seconds, for machines that are busy with something else


@pytest.fixture
def store():
    return TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20)
    )


def client(store):
    return TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))


def meeting(store, port):
    """Let three ranks meet over a store; returns what each was told."""
    told = {}
    deadline = time.monotonic() + 20

    def rank(number, own):
        told[number] = accept(own, number, deadline)["port"]

    threads = [threading.Thread(target=rank, args=(n, client(store))) for n in (1, 2)]
    threads[0].start()
    host = threading.Thread(target=invite, args=(client(store), 3, {"port": port}, deadline))
    host.start()
    time.sleep(0.2)  # rank 2 comes late: until then its token is a dead process's
    threads[1].start()
    for thread in (*threads, host):
        thread.join()
    return told


def test_a_second_attempt_does_not_take_the_invitation_of_the_first(store):
    assert meeting(store, 1111) == {1: 1111, 2: 1111}
    assert meeting(store, 2222) == {1: 2222, 2: 2222}


def test_a_rank_that_does_not_come_is_named(store):
    with pytest.raises(RuntimeError, match="expected all processes .* rank 1 did not; look at its"):
        invite(store, 2, {"port": 1}, time.monotonic() + 0.1)


@pytest.fixture
def watched(store):
    """Rank 0 in this process, watching a rank 1 that is another program of this host."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    store.set("who/1", f'{{"host": "{os.uname().nodename}", "pid": {child.pid}}}')
    peers = Peers(store, rank=0, size=2, patience=0)
    peers.start()
    yield peers, child
    child.kill()
    child.wait()
    peers.stop()


def test_a_dead_process_is_named_with_its_host(watched):
    peers, child = watched
    child.kill()
    child.wait()
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9")
    assert is_of_collectives(error)
    assert not is_of_collectives(ValueError("gloo"))
    said = explained(error, peers)
    assert f"rank 1 on {os.uname().nodename} (process {child.pid}) died; see its log" in said
    assert "--ckpt_path last" in said


def test_what_a_process_ended_with_is_passed_on(watched):
    peers, _ = watched
    Peers(peers.store, rank=1, size=2, patience=0).stop("expected numbers, got NaN")
    assert "ended with: expected numbers, got NaN" in peers.diagnosis()


def test_a_process_without_a_sign_of_life_is_told_from_one_that_lives(watched):
    peers, _ = watched
    beats = iter(range(100))
    lives = threading.Event()

    def beat():
        while not lives.wait(0.2):
            peers.store.set("beat/1", str(next(beats)))

    thread = threading.Thread(target=beat)
    thread.start()
    assert peers.diagnosis(1.0) == ""
    lives.set()
    thread.join()
    assert "shows no sign of life" in peers.diagnosis(1.0)


def keep_store(port):
    """Be rank 0, which lives and keeps the store."""
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    peers = Peers(store, rank=0, size=2, patience=0)
    port.put(store.port)
    peers.start()
    time.sleep(600)


def watch(port, started, log):
    """Be rank 1, which waits for something else."""
    sys.stderr = log.open("w", buffering=1)
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    Peers(store, rank=1, size=2, patience=2.0).start()
    started.set()
    time.sleep(600)


def test_a_store_that_does_not_answer_at_all_is_given_up(tmp_path):
    """As behind a cut cable: no call on the store comes back, and none is refused."""
    fork = multiprocessing.get_context("fork")
    port, started = fork.Queue(), fork.Event()
    server = fork.Process(target=keep_store, args=(port,))
    server.start()
    other = fork.Process(target=watch, args=(port.get(), started, tmp_path / "said"))
    other.start()
    try:
        assert started.wait(60)
        time.sleep(1.5)  # it has seen rank 0 live
        os.kill(server.pid, signal.SIGSTOP)
        other.join(60)
        assert other.exitcode == 1
        said = (tmp_path / "said").read_text()
        assert f"rank 0 on {os.uname().nodename} (process {server.pid}) has not answered" in said
    finally:
        other.kill()
        server.kill()
        other.join()
        server.join()


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model_folder, small_prompts):
    """Write configs of a fit of twelve steps by two processes; returns a maker of their paths."""
    folder = tmp_path_factory.mktemp("faults")
    files = {"demonstrations": folder / "train.jsonl", "validation": folder / "val.jsonl"}
    write_prompts(files["demonstrations"], small_prompts[:6])
    write_prompts(files["validation"], small_prompts[6:8])
    trainer = {"max_steps": 12, "devices": 2, "strategy": "ddp"}

    def make(name, *callbacks):
        data = {key: str(file) for key, file in files.items()}
        return small_fit(folder / name, tiny_model_folder, data, *callbacks, trainer=trainer)

    return make


def run(words, file, patience=PATIENCE):
    """Run a program; returns its exit status and what it said."""
    line = [sys.executable, "-m", *words, "rlaif_pl", "fit", "--config", str(file)]
    line += ["--peer_timeout", "8"]
    process = subprocess.Popen(
        line,
        env=environment(),
        cwd=file.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=patience)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said


@pytest.fixture(scope="module")
def unbroken(config):
    file = config("unbroken")
    code, said = run([], file)
    assert code == 0, said
    return file.with_suffix("")


@pytest.mark.slow
def test_the_program_starts_its_own_second_rank(unbroken):
    ranks = [torch.load(unbroken / f"rank{n}.pt", weights_only=True) for n in range(2)]
    assert [each["ranks"] for each in ranks] == [2, 2]
    torch.testing.assert_close(ranks[0]["weights"], ranks[1]["weights"], rtol=0, atol=0)


TORCHRUN = ["torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "2", "-m"]


def check_equal(root, unbroken):
    for rank in range(2):
        found, expected = (
            torch.load(folder / f"rank{rank}.pt", weights_only=True) for folder in (root, unbroken)
        )
        for part in ("weights", "gradients"):
            torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)
        assert found["metrics"] == expected["metrics"]
    histories = [(folder / "history.csv").read_text() for folder in (root, unbroken)]
    assert histories[0] == histories[1]
    assert len(histories[0].splitlines()) > 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("SIGKILL", 1),
        pytest.param("SIGKILL", 0, marks=pytest.mark.soak),
        pytest.param("SIGSTOP", 1, marks=pytest.mark.soak),
        pytest.param("SIGSTOP", 0, marks=pytest.mark.soak),
    ],
)
def test_torchrun_goes_on_from_the_last_checkpoint(config, unbroken, tmp_path, name, rank):
    marker = tmp_path / "happened"
    fault = component("fault.Fault", signal_name=name, step=7, rank=rank, marker=str(marker))
    file = config(f"{name}{rank}", fault)
    code, said = run(TORCHRUN, file)
    assert code == 0, said
    assert marker.exists()
    assert "restarted by torchrun: going on from" in said
    check_equal(file.with_suffix(""), unbroken)


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(config, tmp_path):
    fault = component(
        "fault.Fault", signal_name="SIGSTOP", step=3, rank=1, marker=str(tmp_path / "happened")
    )
    code, said = run([], config("hangs", fault))
    assert code != 0
    assert "has not answered for 8 s (--peer_timeout)" in said, said
    assert "rank 1 on" in said
