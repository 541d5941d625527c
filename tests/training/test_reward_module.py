"""The reward loss by hand, references at 0, and weights of 0."""

import dataclasses
import math
import warnings

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource
from rlaif_pl.models import BackboneOptions, Lora, RewardModel
from rlaif_pl.training import RewardModule
from rlaif_pl.training.reward_module import fit_probe
from rlaif_pl.types import Batch, Preference


def batch_of(pairs, weights=None, targets=None):
    weights = weights or [pair.weight for pair in pairs]
    targets = targets or [pair.p_first for pair in pairs]
    rows = [
        dataclasses.replace(pair, weight=weight, p_first=target)
        for pair, weight, target in zip(pairs, weights, targets, strict=True)
    ]
    return Batch(rows, range(len(rows)), [False] * len(rows))


def cross_entropy(margin, p):
    """``-p log s(m) - (1 - p) log s(-m)``."""
    sigmoid = 1 / (1 + math.exp(-margin))
    return -p * math.log(sigmoid) - (1 - p) * math.log(1 - sigmoid)


def test_loss_is_the_soft_cross_entropy_by_hand(build, small_pairs):
    module, _ = build("reward")
    pairs = small_pairs[:6]
    prompts = [pair.prompt for pair in pairs]
    first = module.reward.score(prompts, [pair.first for pair in pairs]).tolist()
    second = module.reward.score(prompts, [pair.second for pair in pairs]).tolist()
    losses, margins = module(batch_of(pairs))
    assert margins.tolist() == pytest.approx(
        [a - b for a, b in zip(first, second, strict=True)], abs=1e-5
    )
    expected = [
        pair.weight * cross_entropy(a - b, pair.p_first)
        for pair, a, b in zip(pairs, first, second, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def test_one_pair_in_numbers(build, small_pairs, monkeypatch):
    # rewards 1.5 and 0.5, p 0.8: m = 1, -0.8 ln s(1) - 0.2 ln s(-1) = 0.8*0.31326 + 0.2*1.31326
    module, _ = build("reward")
    monkeypatch.setattr(module.reward, "rewards", lambda *_: torch.tensor([1.5, 0.5]))
    losses, margin = module(batch_of(small_pairs[:1], targets=[0.8]))
    assert margin.item() == 1.0
    assert losses.item() == pytest.approx(0.51326, abs=1e-5)


def test_training_loss_is_the_mean_over_weights(build, small_pairs):
    module, _ = build("reward")
    module.log = lambda *_, **__: None
    batch = batch_of(small_pairs[:3], [1.0, 2.0, 0.5])
    losses, _ = module(batch)
    assert module.training_step(batch, 0).item() == pytest.approx(losses.sum().item() / 3.5)


def test_loss_accuracy_and_margin_of_a_batch_by_hand(build, small_pairs, monkeypatch):
    # Margins 1, -2, 0.5, 9; targets prefer first, first, second, second; the last counts nowhere.
    rewards = torch.tensor([[1.5, 0.5], [0.0, 2.0], [0.5, 0.0], [9.0, 0.0]], requires_grad=True)
    module, _ = build("reward")
    monkeypatch.setattr(module.reward, "rewards", lambda *_: rewards.flatten())
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value.item()})
    target, weight = [0.8, 1.0, 0.0, 0.0], [1.0, 2.0, 1.0, 0.0]
    loss = module.training_step(batch_of(small_pairs[:4], weight, target), 0)
    entropies = [cross_entropy(1.0, 0.8), 2 * cross_entropy(-2.0, 1.0), cross_entropy(0.5, 0.0)]
    assert loss.item() == pytest.approx(sum(entropies) / 4, abs=1e-6)
    assert logged["reward/train_loss"] == pytest.approx(loss.item())
    assert logged["reward/train_accuracy"] == pytest.approx(1 / 4)
    assert logged["reward/train_margin"] == pytest.approx((1 - 4 + 0.5) / 4)
    loss.backward()
    # d loss / d margin = w (sigma(m) - p) / 4
    slopes = [(0.731059 - 0.8) / 4, 2 * (0.119203 - 1.0) / 4, 0.622459 / 4, 0.0]
    expected = torch.tensor([[slope, -slope] for slope in slopes])
    torch.testing.assert_close(rewards.grad, expected, rtol=0, atol=1e-6)


def test_pairs_of_weight_0_change_no_gradient(build, small_pairs):
    gradients = []
    for count in (3, 4):
        module, _ = build("reward")
        module.log = lambda *_, **__: None
        module.training_step(
            batch_of(small_pairs[:count], [1.0, 2.0, 1.0, 0.0][:count]), 0
        ).backward()
        gradients.append({name: p.grad for name, p in module.trained().items()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_references_average_0_after_a_fit_and_in_the_saved_model(
    build, trainer, tmp_path, data_files, small_prompts
):
    module, data = build("reward", references=DataSource(data_files.prompts))
    before = module.reward.shift.item()
    trainer(4).fit(module, data)
    texts = [p.text for p in small_prompts], [str(p.reference) for p in small_prompts]
    scores = module.reward.score(*texts)
    assert before == 0.0
    assert abs(module.reward.shift.item()) > 1e-3
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-6)
    module.export(tmp_path / "reward")
    again = RewardModel(BackboneOptions(str(tmp_path / "reward"), trunk_layers=2), frozen=True)
    torch.testing.assert_close(again.score(*texts), scores, rtol=1e-4, atol=1e-5)


def test_a_second_fit_shifts_no_further(build, trainer, data_files, small_prompts):
    module, data = build("reward", references=data_files.prompts)
    trainer(2).fit(module, data)
    trainer(2).fit(module, data)
    texts = [p.text for p in small_prompts], [str(p.reference) for p in small_prompts]
    assert module.reward.score(*texts).mean().item() == pytest.approx(0.0, abs=1e-6)


def test_a_checkpoint_keeps_the_zero_point(
    build, backbone, trainer, tmp_path, data_files, small_prompts
):
    module, data = build("reward", references=data_files.prompts)
    trainer(4, tmp_path).fit(module, data)
    texts = [p.text for p in small_prompts], [str(p.reference) for p in small_prompts]
    again = RewardModule.load_from_checkpoint(
        tmp_path / "last.ckpt", reward=RewardModel(backbone, lora=Lora(r=4, alpha=8))
    )
    assert again.reward.shift == module.reward.shift != 0
    torch.testing.assert_close(again.reward.score(*texts), module.reward.score(*texts))


def test_a_checkpoint_of_before_loads_without_it(build, backbone, trainer, tmp_path, data_files):
    module, data = build("reward", references=data_files.prompts)
    trainer(2, tmp_path).fit(module, data)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del content["state_dict"]["reward.shift"]
    torch.save(content, tmp_path / "old.ckpt")
    again = RewardModule.load_from_checkpoint(
        tmp_path / "old.ckpt", reward=RewardModel(backbone, lora=Lora(r=4, alpha=8))
    )
    assert again.reward.shift == 0
    torch.testing.assert_close(again.reward.head.weight, module.reward.head.weight)
    resumed, data = build("reward", references=data_files.prompts)
    trainer(2).fit(resumed, data, ckpt_path=tmp_path / "old.ckpt")
    assert resumed.reward.shift == module.reward.shift


def test_a_fit_that_goes_on_trains_at_the_shift_it_began_with(build, trainer, tmp_path, data_files):
    class Shifts(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, _, module, *__):
            self.seen.append(module.reward.shift.item())

    shifts = Shifts()
    for steps in (2, 4):
        module, data = build("reward", references=data_files.prompts)
        path = tmp_path / "last.ckpt"
        run = trainer(steps, tmp_path, callbacks=[shifts])
        run.fit(module, data, ckpt_path=path if path.exists() else None)
    assert shifts.seen == [0.0] * 4


def test_a_cast_to_16_bits_leaves_the_shift_exact(backbone):
    model = RewardModel(backbone)
    model.shift.fill_(1.001)
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    assert model.shift.dtype == torch.float32
    assert model.shift.item() == pytest.approx(1.001, abs=1e-7)
    assert model.to("meta").shift.is_meta


def test_prompts_without_references_are_refused_by_name(build, trainer, data_files):
    module, data = build("reward", references=data_files.pairs)
    with pytest.raises(ValueError, match="expected references in .*pairs.jsonl"):
        trainer(1).fit(module, data)


def test_a_fit_learns_the_labels_and_saves_only_what_it_trained(
    build, trainer, tmp_path, small_pairs
):
    module, data = build("reward")
    batch = batch_of(small_pairs)
    before = module(batch)[0].sum().item()
    run = trainer(20, tmp_path, limit_val_batches=1.0)
    run.fit(module, data)
    assert module(batch)[0].sum().item() < 0.95 * before
    assert {"reward/val_loss", "reward/val_accuracy"} <= run.callback_metrics.keys()
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == module.trained().keys() | {"reward.shift"}
    assert any(name.endswith("head.weight") for name in saved)


def test_validation_is_a_mean_over_weights_whatever_the_batches(build, trainer, small_pairs):
    module, _ = build("reward")
    losses, margins = module(batch_of(small_pairs[:3], [1.0, 2.0, 0.5]))
    batches = [
        batch_of(small_pairs[:2], [1.0, 2.0]),
        batch_of(small_pairs[2:3], [0.5]),
        batch_of(small_pairs[3:4], [0.0]),  # a rank with nothing but a filler
    ]
    loader = DataLoader(batches, batch_size=None)
    (found,) = trainer(1, limit_val_batches=1.0).validate(module, loader, verbose=False)
    assert found["reward/val_loss"] == pytest.approx(losses.sum().item() / 3.5, rel=1e-5)
    agree = [(m > 0) == (p.p_first > 0.5) for m, p in zip(margins, small_pairs, strict=False)]
    assert found["reward/val_accuracy"] == pytest.approx(sum(map(bool, agree)) / 3)


def alike(count, prompt="post"):
    """Pairs that differ behind many common words only."""
    start = "the same words at the beginning of both responses"
    return [
        Preference(f"{prompt} {n}", f"{start} one", f"{start} two", f"{prompt}{n}", p_first=0.9)
        for n in range(count)
    ]


def test_pairs_identical_after_the_cut_are_left_out_and_counted(
    build, trainer, backbone, tmp_path, small_pairs
):
    reward = RewardModel(backbone, max_response_tokens=6)
    pairs = [*alike(6), *small_pairs[:4]]
    assert reward.tells_apart(pairs) == [False] * 6 + [True] * 4
    assert reward.tells_apart([]) == []
    write_preferences(tmp_path / "train.jsonl", pairs)
    write_preferences(tmp_path / "val.jsonl", [*alike(2, "other"), *small_pairs[4:6]])
    module, data = build("reward", reward=reward)
    data.source, data.validation = str(tmp_path / "train.jsonl"), str(tmp_path / "val.jsonl")
    with pytest.warns(UserWarning, match="identical once cut to 6 tokens") as warned:
        trainer(1, limit_val_batches=1.0).fit(module, data)
    said = [str(each.message) for each in warned if "left out" in str(each.message)]
    assert [text.partition(":")[0] for text in said] == [
        "left out 6 of 10 pairs of training",
        "left out 2 of 4 pairs of validation",
    ]
    assert (len(data.train_rows), len(data.validation_rows)) == (4, 2)


def test_pairs_that_are_all_identical_after_the_cut_are_refused(build, trainer, backbone, tmp_path):
    write_preferences(tmp_path / "train.jsonl", alike(3))
    module, data = build("reward", reward=RewardModel(backbone, max_response_tokens=6))
    data.source, data.validation_fraction = str(tmp_path / "train.jsonl"), 0.0
    with pytest.raises(
        ValueError, match=r"all 3 are left out.*raise the reward's max_response_tokens"
    ):
        trainer(1).fit(module, data)


def test_validation_in_bfloat16_counts_beyond_256(build, trainer, small_pairs):
    module, _ = build("reward")
    batches = [batch_of(small_pairs[:2], [200.0, 101.0]) for _ in range(3)]
    loader = DataLoader(batches, batch_size=None)
    sums = []
    module.on_validation_epoch_end = lambda: sums.append(module.val_loss.weight.clone())
    run = trainer(1, limit_val_batches=1.0, precision="bf16-true")
    run.validate(module, loader, verbose=False)
    assert [(each.dtype, each.item()) for each in sums] == [(torch.float32, 903.0)]


def test_a_probe_is_the_penalized_logistic_fit():
    generator = torch.Generator().manual_seed(3)
    inputs, target, weight = (torch.rand(n, generator=generator) for n in ((40, 3), (40,), (40,)))
    scale = inputs.std(0)

    def loss(head):
        each = F.binary_cross_entropy_with_logits(inputs @ head, target, reduction="none")
        return (each * weight).sum() / weight.sum() + 0.1 * (head * scale).square().sum()

    head = fit_probe(inputs, target, weight, 0.1).requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(head), head)
    torch.testing.assert_close(slope, torch.zeros(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("weight", [torch.ones(1), torch.tensor([1.0, 0.0])])
def test_a_probe_needs_two_pairs(weight):
    with pytest.raises(
        ValueError, match="two training pairs with a weight above 0 .* got 1; leave"
    ):
        fit_probe(torch.rand(len(weight), 3), torch.ones(len(weight)), weight, 0.1)


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_how_many_responses_of_pairs_are_cut_is_said_once(build, backbone, trainer, stage):
    def built(most):
        if stage == "dpo":
            return build(stage, max_response_tokens=most)
        return build(stage, reward=RewardModel(backbone, lora=Lora(r=4), max_response_tokens=most))

    module, data = built(4000)
    data.setup("fit")
    pairs = [*data.train_rows, *data.validation_rows]
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    lengths = list(map(len, module.reader()[0].encoding.responses(texts)))
    most = sorted(lengths)[len(lengths) // 2]
    cut = sum(length > most for length in lengths)
    assert 0 < cut < len(lengths)
    for limit, expected in (
        (most, [f"max_response_tokens cuts {cut} responses to {most} tokens"]),
        (4000, []),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(1).fit(*built(limit))
        said = [str(each.message) for each in caught if "_tokens cuts" in str(each.message)]
        assert [text.partition(":")[0] for text in said] == expected
