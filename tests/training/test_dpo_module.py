"""DPO against transformers and TRL's formula; what it trains, logs and exports."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.models import Lora, Policy
from rlaif_pl.training import DPOModule
from rlaif_pl.types import Batch

BETA = 0.3


def batch_of(pairs, fillers=0):
    real = len(pairs) - fillers
    return Batch(pairs, range(len(pairs)), [n >= real for n in range(len(pairs))])


def plain_logprob(model, tokenizer, prompt, response):
    """Sum of log P of a response and its EOS, one text at a time, all logits at once."""
    context = tokenizer(f"POST: {prompt}\n\nTL;DR:").input_ids
    answer = [*tokenizer(f" {response}").input_ids, tokenizer.eos_token_id]
    logits = model(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum()


def plain_loss(model, reference, tokenizer, pairs):
    """TRL's DPO loss with label smoothing: logits h of the pair, -(1 - e) log s(h) - e log s(-h)."""
    total, weight = 0.0, 0.0
    for pair in pairs:
        first, second = (
            plain_logprob(model, tokenizer, pair.prompt, text)
            - plain_logprob(reference, tokenizer, pair.prompt, text).detach()
            for text in (pair.first, pair.second)
        )
        h, smoothing = BETA * (first - second), 1 - pair.p_first
        loss = -(1 - smoothing) * torch.nn.functional.logsigmoid(h)
        loss = loss - smoothing * torch.nn.functional.logsigmoid(-h)
        total, weight = total + pair.weight * loss, weight + pair.weight
    return total / weight


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_loss_and_gradients_are_those_of_transformers(
    build, backbone, tiny_model_folder, small_pairs, trunk_layers
):
    options = dataclasses.replace(backbone, trunk_layers=trunk_layers)
    module, _ = build("dpo", backbone=options, lora=None, beta=BETA)
    module.log = lambda *_, **__: None
    model, reference = (
        AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
        for _ in range(2)
    )
    # moved off the reference, both alike
    ours = list(module.trained().values())
    upper = [*model.model.layers[trunk_layers:], model.model.norm]
    if trunk_layers == 0:  # the embedding, tied to the output, is trained too
        upper = [model.model.embed_tokens, *upper]
    theirs = [weight for layer in upper for weight in layer.parameters()]
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            assert torch.equal(own, other)
            noise = 0.05 * torch.randn_like(own)
            own += noise
            other += noise
    pairs = small_pairs[:5]
    loss = module.training_step(batch_of(pairs), 0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    expected = plain_loss(model, reference, tokenizer, pairs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    expected.backward()
    for own, other in zip(ours, theirs, strict=True):
        assert own.grad.abs().max() > 1e-4
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None])
def test_it_starts_at_the_reference(build, small_pairs, lora):
    module, _ = build("dpo", lora=lora)
    losses, margins = module(batch_of(small_pairs))
    assert margins.tolist() == [0.0] * len(small_pairs)
    expected = [pair.weight * 0.693147 for pair in small_pairs]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_what_is_logged_by_hand(build, small_pairs, monkeypatch):
    # rewards 0.5, -0.5 and 0.2, 0.6 with labels 0.8, 0.3 and weights 1, 2
    module, _ = build("dpo")
    rewards = torch.tensor([[0.5, -0.5], [0.2, 0.6]])
    monkeypatch.setattr(module, "pair_rewards", lambda _: rewards)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    rows = [
        dataclasses.replace(pair, p_first=p, weight=weight)
        for pair, p, weight in zip(small_pairs[:2], (0.8, 0.3), (1.0, 2.0), strict=True)
    ]
    module.training_step(batch_of(rows), 0)
    # -0.8 ln s(1) - 0.2 ln s(-1) = 0.51326; -0.3 ln s(-0.4) - 0.7 ln s(0.4) = 0.63302
    assert logged == pytest.approx(
        {
            "dpo/train_loss": (0.51326 + 2 * 0.63302) / 3,
            "dpo/train_accuracy": 1.0,
            "dpo/train_margin": (1 - 2 * 0.4) / 3,
            "dpo/train_reward_chosen": (0.5 + 2 * 0.6) / 3,
            "dpo/train_reward_rejected": (-0.5 + 2 * 0.2) / 3,
        },
        abs=1e-4,
    )


def test_fillers_change_nothing(build, small_pairs):
    found = []
    for batch in (batch_of(small_pairs[:3]), batch_of([*small_pairs[:3], small_pairs[0]], 1)):
        module, _ = build("dpo")
        module.log = lambda *_, **__: None
        module.training_step(batch, 0).backward()
        found.append({name: p.grad for name, p in module.trained().items()})
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_fit_learns_its_pairs_and_exports_a_policy(build, trainer, small_pairs, tmp_path):
    module, data = build("dpo", beta=1.0)
    trainer(20, limit_val_batches=1).fit(module, data)
    metrics = module.trainer.callback_metrics
    assert metrics["dpo/train_loss"] < 0.69
    assert {"dpo/val_loss", "dpo/val_accuracy"} <= metrics.keys()
    folder = module.export(tmp_path / "policy")
    policy = Policy.from_pretrained(folder)
    encoded = policy.encode([small_pairs[0].prompt], [[small_pairs[0].first]], 128)
    torch.testing.assert_close(
        policy.logprobs(encoded), module.policy.logprobs(encoded), rtol=1e-4, atol=1e-4
    )


def test_a_policy_in_memory_stays_as_it_is(tiny_model_folder, small_pairs):
    policy = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=Lora(r=4))
    module = DPOModule(policy)
    assert module.policy is not policy
    assert module.policy.lora == policy.lora
    assert module.is_given
    assert module(batch_of(small_pairs[:1]))[1].tolist() == [0.0]


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"max_response_tokens": 1}])
def test_what_would_learn_nothing_is_refused(build, wrong):
    with pytest.raises(ValueError, match="beta above 0 and max_response_tokens of at least 2"):
        build("dpo", **wrong)


def test_pairs_identical_after_the_cut_are_left_out(build, trainer, small_pairs, tmp_path):
    start = "the same words at the beginning of both"
    alike = dataclasses.replace(small_pairs[0], first=f"{start} a", second=f"{start} b", group="x")
    write_preferences(tmp_path / "train.jsonl", [alike, *small_pairs[1:5]])
    module, data = build("dpo", max_response_tokens=6)
    data.source, data.validation_fraction = str(tmp_path / "train.jsonl"), 0.0
    with pytest.warns(UserWarning, match=r"left out 1 of 5 .* cut to 6 tokens.*; raise max_resp"):
        trainer(1).fit(module, data)
    assert "x" not in {row.group for row in data.train_rows}
