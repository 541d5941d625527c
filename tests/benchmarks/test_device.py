"""``--device`` of the benchmarks: the CPU by default, a GPU if asked for, one sentence without one."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import device
import pytest
import timing
import torch
from claimed import CUDA

from rlaif_pl.models import device as devices

FOLDER = Path(device.__file__).parent
BENCHMARKS = (
    "a2c_memory",
    "gae",
    "labeling",
    "linear_logprob",
    "lora_step",
    "pairwise_ce",
    "reward_step",
    "rl_growth",
    "rl_step",
)


@pytest.fixture
def here(monkeypatch):
    """Let this machine have some devices."""

    def have(*names):
        monkeypatch.setattr(devices, "devices_here", lambda: list(names))

    return have


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_a_gpu_it_ends_in_one_sentence(name, here, monkeypatch, capsys):
    here("cpu")
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    sentence = str(ended.value.code)  # a text is printed, and the status is then 1
    assert sentence.startswith(f"{name}.py: expected device to be")
    assert "this machine has cpu, got 'cuda'" in sentence
    assert "\n" not in sentence
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_status_without_a_gpu_is_not_0():
    command = [sys.executable, str(FOLDER / "pairwise_ce.py"), "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_default_is_the_cpu_in_float32(here):
    here("cpu", "cuda:0")
    parser = argparse.ArgumentParser()
    device.add_device_options(parser)
    place = device.place_of(parser.parse_args([]))
    assert place == timing.CPU
    assert place.precision == "32-true"
    assert place.pick(1, 2) == 1


@pytest.mark.parametrize(
    ("name", "found", "want"),
    [
        ("auto", ("cpu",), "cpu"),
        ("auto", ("cpu", "mps"), "cpu"),
        ("auto", ("cpu", "cuda:0"), "cuda"),
        ("cuda", ("cpu", "cuda:0"), "cuda"),
    ],
)
def test_a_name_is_a_device_here(here, name, found, want):
    here(*found)
    place = device.make_place(name)
    assert place.device == torch.device(want)
    assert place.dtype == (torch.bfloat16 if want == "cuda" else torch.float32)
    assert place.pick(1, 2) == (2 if want == "cuda" else 1)
    assert place.pick(1, 2, 3) == 3
    assert device.make_place(name, on_gpu=torch.float32).dtype == torch.float32
    assert device.make_place(name, "bfloat16").precision == "bf16-mixed"


def test_an_apple_gpu_is_not_timed(here):
    here("cpu", "mps")
    with pytest.raises(ValueError, match="got mps; take cpu there"):
        device.make_place("mps")


def test_another_process_sees_one_gpu(here, monkeypatch):
    here("cpu", "cuda:0", "cuda:1")
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    place = device.make_place("cuda:1")
    assert chosen == [place.device]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert place.child_environment()["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert place.child_environment()["CUDA_VISIBLE_DEVICES"] == "6"
    assert timing.CPU.child_environment()["CUDA_VISIBLE_DEVICES"] == "4,6"


class FakeGpu:
    """Clocks of a host and a GPU, and memory: what ``torch.cuda`` says of them."""

    LAUNCH, WORK, CYCLE = 5.0, 2.0, 1e-3  # seconds

    def __init__(self, monkeypatch):
        self.host = self.gpu = 0.0
        self.held = self.peak = 100
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = gpu.gpu = max(gpu.gpu, gpu.host)

            def query(self):
                return self.time <= gpu.host

            def synchronize(self):
                gpu.host = max(gpu.host, self.time)

            def elapsed_time(self, end):
                return 1e3 * (end.time - self.time)

        for name, function in {
            "Event": Event,
            "synchronize": self.synchronize,
            "_sleep": self.sleep,
            "reset_peak_memory_stats": self.reset,
            "memory_allocated": lambda: self.held,
            "max_memory_allocated": lambda: self.peak,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def synchronize(self, *_):
        self.host = max(self.host, self.gpu)

    def sleep(self, cycles):
        self.gpu = max(self.gpu, self.host) + self.CYCLE * cycles

    def reset(self):
        self.peak = self.held

    def call(self):
        self.host += self.LAUNCH
        self.gpu = max(self.gpu, self.host) + self.WORK
        self.peak = max(self.peak, self.held + 7)


@pytest.fixture
def fake(monkeypatch):
    return FakeGpu(monkeypatch)


GPU = device.Place(CUDA, torch.float32)


def test_a_call_on_a_gpu_is_timed_with_its_launches(fake):
    found = timing.timings({"a": fake.call, "b": fake.call}, repeats=3, inner=4, place=GPU)
    assert found == {"a": pytest.approx((4 * 5 + 2) / 4), "b": pytest.approx((4 * 5 + 2) / 4)}


def test_queued_calls_take_the_gpus_own_time(fake, monkeypatch):
    # 4 launches take 20 s: 1 s and 4 s of idling are too short, 16 s too, 64 s are not
    monkeypatch.setattr(timing, "FIRST_WAIT", 1000)
    emptied = []
    found = timing.timings(
        {"a": fake.call},
        repeats=1,
        inner=4,
        before=lambda: emptied.append(1),
        place=GPU,
        queued=True,
    )
    assert found == {"a": pytest.approx(FakeGpu.WORK)}
    assert len(emptied) == 2 * 4


def test_a_function_that_waits_is_timed_with_its_waits(fake, monkeypatch):
    monkeypatch.setattr(timing, "FIRST_WAIT", 1000)
    monkeypatch.setattr(timing, "LONGEST_WAIT", 4000)

    def waits():
        fake.call()
        fake.synchronize()

    found = timing.timings({"a": waits}, repeats=1, inner=2, place=GPU, queued=True)
    assert found["a"] > FakeGpu.WORK


def test_peak_memory_of_a_gpu_is_above_what_is_held(fake):
    fake.peak = 10_000  # of something before
    assert timing.peak_growth(fake.call, GPU) == 7


def test_peers_that_fail_or_differ_are_left_out_with_the_reason(capsys):
    def check(name, peer):
        assert peer() == 1, f"{name} differs"

    def broken():
        raise ImportError("no such library")

    peers = {"right": lambda: 1, "wrong": lambda: 2, "broken": broken}
    found, left_out = timing.fitting(peers, check)
    assert list(found) == ["right"]
    assert left_out["broken"] == "ImportError: no such library"
    assert left_out["wrong"].startswith("AssertionError: wrong differs")
    assert "broken is left out" in capsys.readouterr().err


def test_the_last_line_names_the_device(capsys):
    timing.report("x", {"a": 1.0}, {"r": 2.0}, left_out={})
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["name"] == "x"
    assert last["ratios"] == {"r": 2.0}
    assert last["equal"] is True
    assert last["dtype"] == "float32"
    assert last["device"]
    assert last["kernels"] in ("compiled", "reference")


def test_rates_of_the_cpu_are_measured():
    assert timing.gemm_rate(size=64) > 1e6
    assert timing.best_seconds(lambda: None, timing.CPU, 2) < 1
