"""Forward and backward passes, sampling and labels on a device against the CPU's.

On ``cuda`` the yardstick is the CPU's own rounding (``tests/plugins/rounding.py``); on ``cpu`` the same
comparison runs, of the CPU with itself.
"""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from rounding import assert_within_noise, gradients
from torch.nn import functional as F

from rlaif_pl.cli.commands.doctor import way_of
from rlaif_pl.engine import generate
from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.noise import with_noise
from rlaif_pl.engine.response_batch import assemble, hidden_states
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.sampling import SamplingParams, sample_seed
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling import LikelihoodLabeler, LocalBackend, PairwiseLabeler
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.models import BackboneOptions
from rlaif_pl.models.adapters import Lora, clone
from rlaif_pl.models.policy import load_policy
from rlaif_pl.text import Template

CPU = torch.device("cpu")
PROMPTS = [[3, 4, 5, 6, 7, 8, 9, 30, 31], [10, 11, 12], [20]]
PAIRS = [[5, 6, 7, 1], [9, 1], [2, 1], [4, 4, 4, 4, 1], [1], [7, 8, 1]]
SAMPLES = [[n, 40 + n, 60, 1][n % 3 :] for n in range(2, 14)]  # four a prompt
BATCHES = assemble(PROMPTS, PAIRS, pad=1), assemble(PROMPTS, SAMPLES, pad=1)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Blocks, with heads that share keys and heads that do not; text by text: a soft cap, a window.
MODELS = [(name, None, dtype) for name in ("llama", "gpt2") for dtype in DTYPES]
MODELS += [("gemma2", None, torch.float32), ("mistral", 4, torch.bfloat16)]
LENGTH = 40  # tokens: a GPU looks twice which texts have ended, and once at the end


class Row(NamedTuple):
    """Tokens, scored from one on."""

    ids: tuple[int, ...]
    first: int


def runner_on(make_model, name, window, dtype, device):
    """A decoder with the same weights at every call; rotary frequencies stay float32."""
    return DecoderRunner(decoder_of(make_model(name, window))).to(device, dtype)


def three(run, here, there, decoder):
    """Run on the device, on the CPU, and on the CPU with the last bits of embeddings changed."""
    return run(there), run(here), with_noise(lambda: run(here), decoder)


@pytest.mark.parametrize(("name", "window", "dtype"), MODELS)
def test_packed_states_of_pairs_and_samples(make_model, device, name, window, dtype):
    here, there = (runner_on(make_model, name, window, dtype, at) for at in (CPU, device))
    assert there.capabilities == here.capabilities
    assert there.capabilities.packs

    def run(runner):
        found = []
        for batch in BATCHES:
            there = batch.to(runner.device)
            lasts = there.places(batch.lengths.tolist())
            found += [hidden_states(runner, there), hidden_states(runner, there, places=lasts)]
        return torch.cat(found).float().cpu()

    with torch.no_grad():
        assert_within_noise(*three(run, here, there, here.decoder), dtype)


@pytest.mark.parametrize(
    ("name", "lora", "dtype"),
    [
        *(("llama", None, dtype) for dtype in DTYPES),
        ("llama", Lora(r=2), torch.float32),
        ("gpt2", None, torch.bfloat16),
        ("gemma2", None, torch.float32),
    ],
)
def test_gradients_of_a_pair(make_model, device, name, lora, dtype):
    def build(at):
        stack = clone(runner_on(make_model, name, None, dtype, CPU), lora)
        generator = torch.Generator().manual_seed(5)
        for key, weight in stack.named_parameters():
            if "lora_B" in key:
                weight.data = torch.randn(weight.shape, generator=generator).to(weight) * 0.05
        return stack.to(at)

    def run(runner):
        batch = BATCHES[0].to(runner.device)
        states = hidden_states(runner, batch, places=batch.places(batch.lengths.tolist()))
        head = torch.linspace(-1, 1, states.shape[1]).to(runner.device)
        rewards = (states.float() @ head).view(-1, 2)
        runner.zero_grad()
        loss = -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
        loss.backward()
        losses.append(loss.item())
        return gradients(runner)

    here, there, losses = build(CPU), build(device), []
    assert_within_noise(*three(run, here, there, here.decoder), dtype)
    if dtype == torch.float32:
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prefix_trees(tiny_model_folder, device, dtype):
    """Rows of one beginning, three levels deep, over a kept root and over none."""
    options = BackboneOptions(str(tiny_model_folder), dtype=dtype)
    ids = torch.randint(2, 250, (60,), generator=torch.Generator().manual_seed(2)).tolist()
    rows = [
        Row((*ids[:20], *ids[20 : 20 + 4 * (n // 2)], *ids[50 : 53 + n]), 12 + n) for n in range(6)
    ]
    here, there = (load_policy(options, Template()).to(at) for at in (CPU, device))

    def run(policy):
        found = {}
        for part in PrefixTreeRunner(policy, 64, least_shared=2).score(rows):
            found.update(part)
        return torch.tensor([value for n in sorted(found) for value in found[n]])

    found = three(run, here, there, here.top.decoder)
    assert len(found[0]) == sum(len(row.ids) - row.first for row in rows)
    assert_within_noise(*found, getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_way_that_doctor_names(tiny_model_folder, device, dtype):
    found = way_of(str(tiny_model_folder), dtype, device.type)
    assert found.startswith(f"packed without padding ({device.type}")
    assert f", {dtype})" in found
    assert found.endswith("one token a text over one copy of each prompt's keys")


@pytest.fixture
def policies(tiny_model_folder, device):
    """The tiny policy on the CPU and on the device, in float32."""
    options = BackboneOptions(str(tiny_model_folder), trunk_layers=2)
    return [load_policy(options, Template()).to(at) for at in (CPU, device)]


@pytest.fixture
def texts(small_prompts):
    return [row.text for row in small_prompts[:3]]


def draw(policy, texts, params):
    """Draw with noise that depends on prompt and sample alone."""
    seeds = [sample_seed(3, n, k) for n in range(len(texts)) for k in range(params.n)]
    return policy.sample(policy.encode_prompts(texts), params, seeds)


def ends_of(policy, texts, params):
    """Tokens and a string that some texts come upon, at different lengths."""
    rows = draw(policy, texts, params).tokens
    words = [policy.decode(row[5:7]) for row in rows[:2]]
    return (rows[0][9], rows[-1][20]), tuple(word for word in words if word.strip())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stops", ["length", "tokens", "strings"])
def test_texts(policies, texts, stops, temperature):
    here, there = policies
    params = SamplingParams(n=2, max_new_tokens=LENGTH, temperature=temperature)
    tokens, strings = ends_of(here, texts, params)
    if stops == "tokens":
        params = replace(params, stop_token_ids=tokens)
    elif stops == "strings":
        params = replace(params, stop=strings)
    expected, found = (draw(policy, texts, params) for policy in (here, there))
    assert found.tokens == expected.tokens
    assert found.finished == expected.finished
    assert not any(found.failed)
    assert any(found.finished) or stops == "length"
    assert here.texts(found.tokens, params) == there.texts(expected.tokens, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [1, 3])
def test_how_often_the_host_looks_changes_no_token(
    tiny_model_folder, device, texts, n, dtype, monkeypatch
):
    options = BackboneOptions(str(tiny_model_folder), trunk_layers=2, dtype=dtype)
    policy = load_policy(options, Template()).to(device)
    params = SamplingParams(n=n, max_new_tokens=LENGTH)
    rows = draw(policy, texts, params).tokens
    # One text ends at its tenth token, so that its prompt goes on with fewer texts or none.
    params = replace(params, stop_token_ids=(rows[0][9],))
    seldom = draw(policy, texts, params)
    assert len(seldom.tokens[0]) <= 10
    monkeypatch.setattr(generate, "steps_per_sync", lambda _: 1)
    always = draw(policy, texts, params)
    if dtype == "float32":  # in 16 bits a batch of another shape rounds to other tokens
        assert always == seldom
    assert all(1 <= len(row) <= LENGTH for row in always.tokens)


@pytest.mark.parametrize("filters", [{}, {"top_k": 20, "top_p": 0.9, "min_p": 0.02}])
def test_scores_of_what_was_drawn(policies, texts, filters):
    params = SamplingParams(n=2, max_new_tokens=12, temperature=0.9, **filters)
    here, there = policies
    rows = there.encode_prompts(texts)
    drawn = draw(there, texts, params).tokens

    def run(policy):
        batch = assemble(rows, drawn, policy.pad, policy.device)
        return policy.logprobs(batch, None, params).cpu()

    with torch.no_grad():
        found, exact, noisy = three(run, here, there, here.trunk.decoder)
    assert (found[:, 0] < 0).all()
    assert found.isfinite().all()
    assert_within_noise(found, exact, noisy)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strategy", ["likelihood", "pairwise"])
def test_labels(tiny_model_folder, small_pairs, device, strategy):
    found = []
    for at in (CPU, device):
        backend = LocalBackend(str(tiny_model_folder), device=at.type, dtype="float32")
        labeler = (
            LikelihoodLabeler(backend)
            if strategy == "likelihood"
            else PairwiseLabeler(backend, verdict=VerdictOptions(min_option_mass=0))
        )
        found.append([pair.p_first for pair in labeler.label(small_pairs[:4])])
        assert backend.model.device.type == at.type
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert len(set(found[0])) > 1
