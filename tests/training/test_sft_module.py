"""The SFT loss against transformers, and what a checkpoint holds."""

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.models import BackboneOptions
from rlaif_pl.types import Batch


def batch_of(prompts, fillers=0):
    real = len(prompts) - fillers
    return Batch(prompts, range(len(prompts)), [n >= real for n in range(len(prompts))])


@torch.no_grad()
def transformers_nll(folder, prompts):
    """Sum -log P of every reference and its EOS, one text at a time, all logits at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for prompt in prompts:
        context = tokenizer(f"POST: {prompt.text}\n\nTL;DR:").input_ids
        answer = [*tokenizer(f" {prompt.reference}").input_ids, tokenizer.eos_token_id]
        logits = model(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        taken = logits.log_softmax(-1)[torch.arange(len(answer)), answer]
        total, count = total - taken.sum().item(), count + len(answer)
    return total, count


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_loss_is_the_negative_log_likelihood_by_transformers(
    build, backbone, tiny_model_folder, small_prompts, trunk_layers
):
    options = dataclasses.replace(backbone, trunk_layers=trunk_layers)
    module, _ = build("sft", backbone=options)
    total, count = module(batch_of(small_prompts[:5]))
    expected, tokens = transformers_nll(tiny_model_folder, small_prompts[:5])
    assert count.item() == tokens
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_an_untrained_model_is_near_uniform(build, small_prompts):
    total, count = build("sft")[0](batch_of(small_prompts))
    # random weights know nothing: about ln 300 = 5.70 nats a token
    assert (total / count).item() == pytest.approx(math.log(300), abs=1.0)


def test_fillers_change_neither_loss_nor_gradient(build, small_prompts):
    rows = [*small_prompts[:3], small_prompts[0]]
    losses, gradients = [], []
    for batch in (batch_of(rows[:3]), batch_of(rows, fillers=1)):
        module, _ = build("sft")
        total, count = module(batch)
        (total / count).backward()
        losses.append((total / count).item())
        gradients.append({name: p.grad for name, p in module.trained().items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_references_are_learned_whole(build, small_prompts):
    long = dataclasses.replace(small_prompts[0], reference="a b c d e f g h " * 20)
    module, _ = build("sft")
    encoded, counted = module._encode(batch_of([long]))
    assert counted.sum().item() > 128
    assert encoded.response_ids[0, -1].item() == module.policy.eos


def test_a_reference_that_is_cut_is_not_taught_to_end_there(build, small_prompts):
    module, _ = build("sft", max_response_tokens=4)
    short = dataclasses.replace(small_prompts[0], reference="a")
    encoded, counted = module._encode(batch_of([*small_prompts[:3], short]))
    whole, _ = build("sft")[0]._encode(batch_of(small_prompts[:3]))
    assert counted[:3].sum().item() == 12
    assert encoded.response_ids[:3].tolist() == whole.response_ids[:, :4].tolist()
    assert module.policy.eos not in encoded.response_ids[:3].tolist()
    assert encoded.response_ids[3, counted[3].sum() - 1].item() == module.policy.eos


def test_a_row_that_is_not_finished_is_not_taught_to_end(build, small_prompts):
    module, _ = build("sft")
    rows = [
        dataclasses.replace(row, columns={"is_finished": n != 1})
        for n, row in enumerate(small_prompts[:3])
    ]
    encoded, counted = module._encode(batch_of(rows))
    assert encoded.response_ids[1, encoded.is_response[1].sum() - 1].item() == module.policy.eos
    assert (encoded.is_response.sum(1) - counted.sum(1)).tolist() == [0, 1, 0]
    assert module.policy.eos not in encoded.response_ids[1, counted[1]].tolist()
    loss, count = module(batch_of(rows))
    whole, _ = module._encode(batch_of(small_prompts[:3]))
    assert count == encoded.is_response.sum() - 1
    assert loss.item() == pytest.approx(-(module.policy.logprobs(whole) * counted).sum().item())


def test_how_many_references_are_cut_is_said_once(build, trainer, small_prompts):
    lengths = [len(row) for row in references_of(build("sft")[0], small_prompts)]
    most = sorted(lengths)[5]
    cut = sum(length > most for length in lengths)
    assert 0 < cut < len(lengths)
    with pytest.warns(UserWarning, match="max_response_tokens cuts") as warned:
        trainer(1).fit(*build("sft", max_response_tokens=most))
    said = [str(each.message) for each in warned if "cuts" in str(each.message)]
    assert len(said) == 1
    assert said[0].startswith(f"max_response_tokens cuts {cut} references to {most} tokens")


@pytest.mark.parametrize("most", [None, 4096])
def test_nothing_is_said_where_none_is_cut(build, trainer, most, recwarn):
    trainer(1).fit(*build("sft", max_response_tokens=most))
    assert not [each for each in recwarn if "cuts" in str(each.message)]


def references_of(module, prompts):
    """Tokens of each reference, EOS included."""
    return module.policy.encoding.responses([prompt.reference for prompt in prompts])


def test_a_fit_lowers_the_loss_and_a_checkpoint_holds_only_what_was_trained(
    build, trainer, tmp_path, small_prompts
):
    module, data = build("sft")
    batch = batch_of(small_prompts)
    before = module(batch)[0].item()
    trainer(8, tmp_path).fit(module, data)
    assert module(batch)[0].item() < 0.95 * before
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == module.trained().keys()
    assert all("lora" in name for name in saved)
    share = sum(v.numel() for v in saved.values()) / sum(p.numel() for p in module.parameters())
    assert share < 0.2


def test_the_export_is_the_model_that_was_trained(build, trainer, tmp_path, small_prompts):
    module, data = build("sft")
    trainer(3).fit(module, data)
    module.export(tmp_path / "policy")
    expected, _ = transformers_nll(tmp_path / "policy", small_prompts[:4])
    assert module(batch_of(small_prompts[:4]))[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_of_another_recipe_is_refused(build, trainer, tmp_path):
    module, data = build("sft")
    trainer(1, tmp_path).fit(module, data)
    other, data = build("sft", lora=None)
    with pytest.raises(ValueError, match="use the config the checkpoint was written with"):
        trainer(2).fit(other, data, ckpt_path=tmp_path / "last.ckpt")


def test_a_missing_model_names_the_command_that_makes_it(build, tmp_path):
    options = BackboneOptions(str(tmp_path / "policy"), create_with="make it")
    with pytest.raises(FileNotFoundError, match=r"no.*; make it with: make it"):
        build("sft", backbone=options)
