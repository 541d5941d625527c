"""What benchmarks compute is right on the CPU, and on a claimed GPU stays there."""

import dataclasses
import io
import json
import sys

import device
import gae
import labeling
import labeling_plain
import linear_logprob
import pairwise_ce
import pytest
import reward_growth
import reward_step
import rl_step
import sides
import timing
import torch
from claimed import CUDA
from device import Place

from rlaif_pl.labeling import LocalBackend, PairwiseLabeler, outcome
from rlaif_pl.models import BackboneOptions, RewardModel

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=["cpu", "claimed"])
def device_here(request):
    """The CPU, then a GPU that is claimed."""
    if request.param == "claimed":
        request.getfixturevalue("gpu")
        return CUDA
    return torch.device("cpu")


@pytest.fixture(params=DTYPES)
def place(request, device_here):
    return Place(device_here, request.param)


def test_advantages_and_their_peers(place):
    inputs = gae.draw(place, 5, 20)
    want = gae.check_ours(inputs, place)
    for name in ("loop (B, T)", "loop (T, B)"):
        found = gae.peers_of(inputs, None)[name]()
        assert all(each.device == place.device for each in found)
        gae.check_peer(name, found, want, place.dtype)
    wrong = tuple(1.5 * each for each in want)
    with pytest.raises(AssertionError, match="of float64's"):
        gae.check_peer("loop (B, T)", wrong, want, place.dtype)


def test_the_scan_that_is_compiled_on_a_gpu():
    inputs = gae.draw(timing.CPU, 5, 20)
    found = gae.scan(inputs.rewards, inputs.values)
    gae.check_peer("scan", found, gae.check_ours(inputs, timing.CPU), torch.float32)


def test_preference_losses(place):
    inputs = pairwise_ce.draw(50, place)
    ways = {"eager": pairwise_ce.eager, "logged": pairwise_ce.logged, **pairwise_ce.OURS}
    for name, way in ways.items():
        pairwise_ce.check(name, way, inputs)
    with pytest.raises(AssertionError):
        pairwise_ce.check("twice", lambda *x: [2 * y for y in pairwise_ce.eager(*x)], inputs)


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_log_probabilities(place, kind):
    inputs = linear_logprob.draw(place, 20, 32, 300, kind)
    for way in (linear_logprob.blocked, linear_logprob.plain):
        linear_logprob.check("it", way, inputs, place)
    with pytest.raises(AssertionError, match="of float64's"):
        linear_logprob.check(
            "other", lambda h, w, t: linear_logprob.plain(h, w, (t + 1) % 300), inputs, place
        )


def test_labels_of_the_plain_way(place, tiny_model_folder, small_pairs, monkeypatch):
    folder = str(tiny_model_folder)
    backend = LocalBackend(folder, device=str(place.device), dtype=place.dtype_name)
    answers = {"plain": labeling_plain.PlainBackend(backend), "ours": backend}
    labelers = {name: PairwiseLabeler(each) for name, each in answers.items()}
    pairs = small_pairs[:4]
    labels = {n: [p.p_first for p in each.label(pairs)] for n, each in labelers.items()}
    gap = {"float32": 1e-4, "bfloat16": 0.05}[place.dtype_name]
    assert labels["ours"] == pytest.approx(labels["plain"], abs=gap)
    if place.dtype == torch.bfloat16:
        # An answer that float32 finds unlikely is a label there as it is in 16 bits.
        monkeypatch.setattr(outcome, "is_unlikely", lambda logprobs, least: least > 0)
        labelers = {n: PairwiseLabeler(a, verdict=labeling.EVERY) for n, a in answers.items()}
        labeling.check_rounding(labelers, backend, pairs, 0, 4)
        labelers["ours"] = Certain()
        with pytest.raises(ValueError, match="as near those in float32"):
            labeling.check_rounding(labelers, backend, pairs, 0, 4)


class Certain:
    """Labels without looking."""

    def label(self, pairs):
        return [dataclasses.replace(pair, p_first=0.99) for pair in pairs]


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # of autocast on the claimed GPU
def test_a_step_of_the_reward_model(place, tiny_model_folder, request, monkeypatch):
    reward = RewardModel(BackboneOptions(str(tiny_model_folder)))
    if place.device == CUDA:
        reward = request.getfixturevalue("gpu").move(reward)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(reward_growth, "PROMPT", 12)
    rows = reward_growth.batch_of(4, 2, 3, place)
    rows = dataclasses.replace(
        rows,
        prefixes=tuple([n % 250 for n in row] for row in rows.prefixes),
        continuations=tuple([n % 250 for n in row] for row in rows.continuations),
    )
    assert rows.device == place.device
    optimizer = torch.optim.SGD(reward.parameters(), lr=1.0)
    before = reward.head.weight.detach().clone()
    reward_growth.step(reward, optimizer, rows, place)
    assert not torch.equal(reward.head.weight.detach().cpu(), before.cpu())
    assert all(p.grad is None for p in reward.parameters())


def test_a_benchmark_ends_in_one_line_of_json(monkeypatch, capsys):
    monkeypatch.setattr(gae, "keep_memory", lambda: None)  # it would hold for other tests, too
    monkeypatch.setattr(sys, "argv", ["gae.py", "--size", "4", "8", "--repeats", "1"])
    gae.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["name"] == "gae"
    assert last["equal"] is True
    assert last["dtype"] == "float32"
    assert last["left_out"] == {}
    assert last["ratios"].keys() > {"speedup over loop (B, T)", "speedup over loop (T, B)"}
    assert last["gb_per_s"].keys() > {"gae", "copy of gae's bytes"}


def test_both_sides_of_a_step_must_agree():
    steps = {"trl": [{"loss": 0.7}], "ours": [{"loss": 0.70005}]}
    reward_step.check_losses(steps, timing.CPU)
    steps["trl"] = [{"loss": 0.71}]
    with pytest.raises(ValueError, match="losses of trl"):
        reward_step.check_losses(steps, timing.CPU)
    reward_step.check_losses(steps, Place(CUDA, torch.bfloat16))  # rounding may be 0.02
    said = {"trl": [-1.0, -2.0], "a2c": [-1.0, -2.0], "padded": [-1.0, -2.1]}
    rl_step.compare_logprobs(said, Place(CUDA, torch.bfloat16))
    with pytest.raises(ValueError, match="log-probabilities of padded"):
        rl_step.compare_logprobs(said, timing.CPU)


def test_peers_are_those_that_are_installed(monkeypatch):
    gpu = Place(CUDA, torch.bfloat16)
    installed = set()
    monkeypatch.setattr(
        device.importlib.util, "find_spec", lambda name: name if name in installed else None
    )
    assert device.step_peers(timing.CPU) == device.step_peers(gpu) == ["padded"]
    installed |= {"trl"}
    assert device.step_peers(timing.CPU) == ["trl"]
    assert device.step_peers(gpu) == ["trl", "padded"]
    installed |= {"liger_kernel"}
    assert device.step_peers(timing.CPU) == ["trl"]
    assert device.step_peers(gpu) == ["trl", "trl_liger", "padded"]


class Ends:
    """A side whose process ended."""

    def __init__(self, side):
        self.side = side

    def step(self):
        raise RuntimeError("it ended")

    hear = step


class Steps(Ends):
    """A side that takes steps."""

    def step(self):
        return {"seconds": 1.0, "loss": 0.5, "peak": 9, "length": 4}

    def hear(self):
        return {"logprobs": [-1.0], "imports": 0}


def test_a_peer_that_ends_is_left_out_and_ours_is_not(capsys):
    workers = [Ends("trl"), Steps("a2c")]
    found, left_out = rl_step.measure(workers, 2, 4, timing.CPU)
    assert list(found) == ["a2c"]
    assert len(found["a2c"]) == 2
    assert left_out == {"trl": "it ended"}
    with pytest.raises(RuntimeError, match="it ended"):
        rl_step.measure([Steps("trl"), Ends("a2c")], 2, 4, timing.CPU)
    left_out = {}
    found = sides.answers(
        [Ends("trl"), Steps("ours")], lambda side: side.step(), ("ours",), left_out
    )
    assert list(found) == ["ours"]
    assert left_out == {"trl": "it ended"}
    with pytest.raises(RuntimeError, match="it ended"):
        sides.answers([Ends("ours")], lambda side: side.step(), ("ours",), left_out)


def test_a_side_leaves_the_memory_of_a_gpu_to_the_others_between_steps(gpu, monkeypatch):
    calls, allocated, reserved = [], 100, 100
    made = torch.empty

    def empty(size, **options):
        calls.append(f"take {size} on {options['device'].type}")
        return made(size, **options)

    monkeypatch.setattr(torch, "empty", empty)
    for name, function in {
        "synchronize": lambda *_: None,
        "reset_peak_memory_stats": lambda: calls.append("count anew"),
        "max_memory_allocated": lambda: 900,
        "memory_allocated": lambda: allocated,
        "memory_reserved": lambda: reserved,
        "empty_cache": lambda: calls.append("give back"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\nstep\n"))
    monkeypatch.setattr(sides.os, "dup2", lambda *_: None)
    line = sides.Line(Place(CUDA, torch.bfloat16))
    said = []
    line.say = lambda **message: said.append(message)
    for _ in range(2):
        line.begin()
        reserved = 1000  # the step's own, kept by torch
        line.end(loss=0.5)
    line.stream.close()
    assert calls == [
        *("take 0 on cuda", "count anew", "give back"),
        *("take 900 on cuda", "count anew", "give back"),
    ]
    assert [step["peak"] for step in said] == [900, 900]
