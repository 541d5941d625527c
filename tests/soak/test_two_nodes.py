"""Two nodes, each a network namespace with a name and an address of its own: a fit over both."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from two_ranks import component, environment, small_fit

from rlaif_pl.data.preferences import write_prompts

PATIENCE = 600  # seconds
SPACES = tuple(f"rlaif{os.getpid()}{name}" for name in "ab")
ADDRESSES = ("10.213.47.1", "10.213.47.2")
ENTER = 'hostname "$1" && shift && exec "$@"'  # in a UTS namespace of its own


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Nodes:
    """Two nodes that can reach each other, and nothing else."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen] = []

    def start(self, node: int, words: list[str], folder: Path, name: str) -> subprocess.Popen:
        """Start a program on a node; what it says goes to ``<folder>/<name>.log``."""
        enter = ["ip", "netns", "exec", SPACES[node], "unshare", "--uts", "sh", "-c", ENTER, "sh"]
        with (folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*enter, f"node{node}", sys.executable, "-m", *words],
                env=environment(),
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def kill(self, node: int) -> None:
        """Kill all processes of a node, as a power cut does."""
        pids = subprocess.run(
            ["ip", "netns", "pids", SPACES[node]], check=True, capture_output=True, text=True
        )
        for pid in map(int, pids.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def running(self, node: int, command: str) -> bool:
        """Whether a command of ours runs on a node, other than as torchrun's argument."""
        pids = subprocess.run(
            ["ip", "netns", "pids", SPACES[node]], check=True, capture_output=True, text=True
        )
        lines = []
        for pid in pids.stdout.split():
            with suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))
        return any(line[2:5] == ["-m", "rlaif_pl", command] for line in lines)

    def cut(self) -> None:
        """Cut the cable between the nodes."""
        ip("-n", SPACES[0], "link", "set", "eth0", "down")


@pytest.fixture
def nodes():
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("needs root, `ip` of iproute2 and `unshare` to make network namespaces")
    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip("link", "add", "eth0", "netns", SPACES[0], "type", "veth",
           "peer", "name", "eth0", "netns", SPACES[1])  # fmt: skip
    except subprocess.CalledProcessError as error:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
        pytest.skip(f"may not make network namespaces: {error.stderr.strip()}")
    hosts = "127.0.0.1 localhost\n" + "".join(
        f"{address} node{n}\n" for n, address in enumerate(ADDRESSES)
    )
    for space, address in zip(SPACES, ADDRESSES, strict=True):
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", "eth0", "up")
        folder = Path("/etc/netns") / space  # what `ip netns exec` puts over /etc
        folder.mkdir(parents=True)
        (folder / "hosts").write_text(hosts)
    made = Nodes()
    yield made
    for node in (0, 1):
        made.kill(node)
    for process in made.started:
        process.wait()
    for space in SPACES:
        subprocess.run(["ip", "netns", "del", space], check=False)
        shutil.rmtree(Path("/etc/netns") / space)


@pytest.fixture
def config(tmp_path, tiny_model_folder, small_prompts):
    """Return a maker of the config of a fit of twelve steps by two processes."""
    files = {"demonstrations": tmp_path / "train.jsonl", "validation": tmp_path / "val.jsonl"}
    write_prompts(files["demonstrations"], small_prompts[:6])
    write_prompts(files["validation"], small_prompts[6:8])
    data = {key: str(file) for key, file in files.items()}

    def make(name, num_nodes, *callbacks, steps=12):
        spread = {"devices": 2 // num_nodes, "num_nodes": num_nodes, "strategy": "ddp"}
        return small_fit(
            tmp_path / name,
            tiny_model_folder,
            data,
            *callbacks,
            trainer={"max_steps": steps, "max_epochs": -1, **spread},
            peer_timeout=8.0,
        )

    return make


def torchrun(file: Path, restarts: int = 2) -> list[str]:
    words = (
        "--nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint node0:29411 --rdzv_id a"
    )
    words += f" --max-restarts {restarts} -m rlaif_pl fit --config {file}"
    return ["torch.distributed.run", *words.split()]


def wait(process: subprocess.Popen, log: Path) -> None:
    assert process.wait(PATIENCE) == 0, log.read_text()[-5000:]


def wait_for(path: Path) -> None:
    wait_until(path.exists, path)


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, log
        time.sleep(0.1)


def both(nodes, file: Path, folder: Path, late: float = 0.0) -> list[subprocess.Popen]:
    first = nodes.start(0, torchrun(file), folder, "node0")
    time.sleep(late)
    return [first, nodes.start(1, torchrun(file), folder, "node1")]


def same_end(root: Path, whole: Path) -> None:
    for rank in range(2):
        found, expected = (
            torch.load(folder / f"rank{rank}.pt", weights_only=True) for folder in (root, whole)
        )
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=0)
        assert found["metrics"] == expected["metrics"]
    assert (root / "history.csv").read_text() == (whole / "history.csv").read_text()


def fault(folder: Path, name: str, step: int) -> dict:
    """A fault of rank 1, which is on either node, once."""
    return component(
        "fault.Fault", signal_name=name, step=step, rank=1, marker=str(folder / "happened")
    )


@pytest.mark.soak
def test_two_nodes_are_as_one_whatever_happens_to_them(nodes, config, tmp_path):
    """One test, since each case is compared with the same run on one machine."""
    one = config("one", 1)
    wait(
        nodes.start(0, ["rlaif_pl", "fit", "--config", str(one)], tmp_path, "one"),
        tmp_path / "one.log",
    )
    whole = tmp_path / "one"

    for name, late in (("two", 0.0), ("late", 20.0)):
        began = time.monotonic()
        for node, process in enumerate(both(nodes, config(name, 2), tmp_path, late)):
            wait(process, tmp_path / f"node{node}.log")
        same_end(tmp_path / name, whole)
        print(f"two nodes, {name}: {time.monotonic() - began:.0f} s, equal to one machine")

    file = config("process", 2, fault(tmp_path, "SIGKILL", 7))
    for node, process in enumerate(both(nodes, file, tmp_path)):
        wait(process, tmp_path / f"node{node}.log")
    assert (tmp_path / "happened").exists()
    same_end(tmp_path / "process", whole)
    print("two nodes, a process killed: started again by torchrun, equal to one machine")


@pytest.mark.soak
def test_a_node_that_dies_is_named_and_the_next_start_goes_on(nodes, config, tmp_path):
    """torchrun 2.13 lets no new node into a rendezvous that has begun, so both are started again."""
    one = config("one", 1)
    wait(
        nodes.start(0, ["rlaif_pl", "fit", "--config", str(one)], tmp_path, "one"),
        tmp_path / "one.log",
    )
    file = config("node", 2, fault(tmp_path, "SIGSTOP", 7))
    first, second = (
        nodes.start(node, torchrun(file, restarts=0), tmp_path, f"node{node}") for node in (0, 1)
    )
    wait_for(tmp_path / "happened")
    nodes.kill(1)
    killed = time.monotonic()
    assert first.wait(PATIENCE) != 0
    second.wait()
    print(f"two nodes, one killed: the other ended {time.monotonic() - killed:.0f} s later")
    assert "rank 1 on node1" in (tmp_path / "node0.log").read_text()
    words = [*torchrun(file), "--ckpt_path", "last"]
    again = [nodes.start(node, words, tmp_path, f"again{node}") for node in (0, 1)]
    for node, process in enumerate(again):
        wait(process, tmp_path / f"again{node}.log")
    same_end(tmp_path / "node", tmp_path / "one")
    print("two nodes, one killed: started again with --ckpt_path last, equal to one machine")


@pytest.mark.soak
def test_an_experiment_runs_on_two_nodes(nodes, config, tmp_path):
    one, two = config("one", 1), config("two", 2)
    wait(
        nodes.start(0, ["rlaif_pl", "fit", "--config", str(one)], tmp_path, "one"),
        tmp_path / "one.log",
    )
    places = dict.fromkeys(
        ("trainer.default_root_dir", "trainer.logger.init_args.save_dir"), "${stage}"
    )
    stages = [
        {"name": name, "command": "fit", "config": str(config), "set": places}
        for name, config in (("both", two), ("alone", one))
    ]
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "stages": stages}))
    words = ["rlaif_pl", "run", str(file), "--nodes", "2", "--node_rank"]
    began = time.monotonic()
    runs = [nodes.start(node, [*words, str(node)], tmp_path, f"run{node}") for node in (0, 1)]
    for node, process in enumerate(runs):
        wait(process, tmp_path / f"run{node}.log")
    for name in ("both", "alone"):
        same_end(tmp_path / "run" / name, tmp_path / "one")
    assert (tmp_path / "run/both/log-node1.txt").is_file()
    assert not (tmp_path / "run/alone/log-node1.txt").exists()
    print(f"run on two nodes: {time.monotonic() - began:.0f} s, both stages equal to one machine")


@pytest.mark.soak
def test_a_node_that_is_cut_off_is_named_on_both_sides(nodes, config, tmp_path):
    file = config("cut", 2, fault(tmp_path, "SIGCONT", 7), steps=1_000_000)
    processes = [
        nodes.start(node, torchrun(file, restarts=0), tmp_path, f"node{node}") for node in (0, 1)
    ]
    wait_for(tmp_path / "happened")
    nodes.cut()
    cut = time.monotonic()
    said = "has not answered for 8 s (--peer_timeout)"
    for node, other in enumerate(("rank 1 on node1", "rank 0 on node0")):
        log = tmp_path / f"node{node}.log"
        wait_until(lambda log=log: said in log.read_text(), log)
        assert f"all processes, {other}" in log.read_text()
        print(
            f"two nodes, the cable cut: named on node {node} after {time.monotonic() - cut:.0f} s"
        )
    assert processes[0].wait(PATIENCE) != 0
    # node 1's torchrun waits for the rendezvous, which is on node 0, as long as its sockets do
    wait_until(lambda: not nodes.running(1, "fit"), tmp_path / "node1.log")
