"""Parts of a step's batch do what the whole batch does, to the last bits of float64."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from rlaif_pl.models import ActorCritic, BackboneOptions, RewardModel
from rlaif_pl.models.policy import load_policy
from rlaif_pl.rl.kl import AdaptiveKL
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.shaping import RewardShaping
from rlaif_pl.text import Template
from rlaif_pl.training import ConstantWithWarmup

# Llama's norms and rotations round to float32, which an error of 1e-16 can flip; GPT-2 computes in
# float64 throughout.
STEP = {"optimizer": partial(torch.optim.SGD, lr=0.1), "scheduler": ConstantWithWarmup}


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, tiny_model_folder):
    """Write a random two-layer GPT-2 with the tiny model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    size = {"n_positions": 256, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.1}
    config = GPT2Config(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id, **size
    )
    folder = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(gpt2_folder):
    return BackboneOptions(str(gpt2_folder))


class LengthReward:
    """Longer is better."""

    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        return torch.tensor([0.1 * len(text) for text in responses])


def module_of(build, stage, backbone, **changes):
    torch.manual_seed(0)
    if stage == "reward":
        changes = {"reward": RewardModel(backbone), **changes}
    elif stage == "a2c":
        actor = ActorCritic(backbone, value_network=changes.pop("value_network", "separate"))
        shaping = RewardShaping(kl_coef=0.1, kl_placement="loss")
        changes = {
            "actor": actor,
            "reward": LengthReward(),
            "shaping": shaping,
            "ent_coef": 0.01,
        } | changes
    else:
        changes = {"backbone": backbone, "lora": None, **changes}
    return build(stage, **STEP, **changes)


def fitted(build, trainer, stage, backbone, parts, steps=2, size=4, changes=None, **options):
    """Weights after some steps of ``size`` rows cut into so many parts, and the gradients of each."""
    module, data = module_of(build, stage, backbone, **(changes or {}))
    data.batch_size, data.validation_fraction = size // parts, 0.0
    run = trainer(steps, precision="64-true", accumulate_grad_batches=parts, **options)
    run.fit(module, data)
    return {name: value.detach().clone() for name, value in module.trained().items()}, module


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("stage", ["sft", "reward", "a2c"])
def test_parts_equal_the_whole(build, trainer, backbone, stage, parts):
    whole, _ = fitted(build, trainer, stage, backbone, 1)
    cut, _ = fitted(build, trainer, stage, backbone, parts)
    start = module_of(build, stage, backbone)[0].trained()
    moved = max((whole[n] - start[n]).abs().max().item() for n in whole)
    assert moved > 1e-5
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)


WHITENED = {"advantages": Advantages(whiten=True)}
GRPO = Advantages(baseline="group_mean", scale="group_std", loss="sequence_mean")
ENDS = {"stop_token_ids": list(range(2, 300, 7))}  # so that responses differ in length
AVERAGED = [
    {"advantages": GRPO, "value_network": "none", **ENDS},
    {"advantages": Advantages(loss="constant"), **ENDS},
]


@pytest.mark.parametrize("changes", AVERAGED)
def test_parts_equal_the_whole_however_losses_are_averaged(build, trainer, backbone, changes):
    whole, _ = fitted(build, trainer, "a2c", backbone, 1, changes=dict(changes))
    cut, _ = fitted(build, trainer, "a2c", backbone, 2, changes=dict(changes))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)
    other, _ = fitted(build, trainer, "a2c", backbone, 1, changes=dict(ENDS))
    assert max((other[n] - whole[n]).abs().max() for n in whole) > 1e-6


@pytest.mark.parametrize(("tokens", "parts"), [(1, 1), (150, 1), (1, 2)])
@pytest.mark.parametrize(
    ("stage", "changes"),
    [("sft", {}), ("reward", {}), ("a2c", {}), ("a2c", WHITENED), *(("a2c", a) for a in AVERAGED)],
)
def test_memory_cuts_change_no_step_and_no_log(
    build, trainer, backbone, stage, changes, tokens, parts
):
    if changes is WHITENED and parts > 1:
        pytest.skip("refused: whitening wants the whole batch at once")
    found = []
    for most in (None, tokens):
        options = {**changes, "micro_batch_tokens": most}
        weights, module = fitted(build, trainer, stage, backbone, parts, changes=options)
        logged = {name: float(v) for name, v in module.trainer.callback_metrics.items()}
        found.append((weights, logged))
    (whole, told), (cut, retold) = found
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)
    assert retold == pytest.approx(told, abs=1e-6)


def test_parts_hold_whole_prompts_up_to_the_limit(backbone):
    policy = load_policy(backbone, Template())
    batch = policy.encode(["a b", "a b c d e f", "a", "b"], [["x", "y z"]] * 4, 20)
    sizes = [
        batch.prefix_lengths[n] + sum(batch.continuation_lengths[2 * n : 2 * n + 2])
        for n in range(4)
    ]
    assert batch.cut(None) == [slice(0, 4)]
    assert batch.cut(1) == [slice(n, n + 1) for n in range(4)]
    most = sizes[2] + sizes[3]
    assert batch.cut(most)[-1] == slice(2, 4)
    assert batch.cut(most - 1)[-1] == slice(3, 4)
    part = batch.part(slice(1, 3))
    assert torch.equal(part.response_ids, batch.response_ids[2:6])
    assert part.continuations == batch.continuations[2:6]
    assert part.prefixes == batch.prefixes[1:3]


def test_a_limit_below_one_is_refused(build):
    with pytest.raises(ValueError, match="micro_batch_tokens of at least 1, got 0; leave it out"):
        build("sft", micro_batch_tokens=0)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_last_step_of_an_epoch_may_have_fewer_parts(build, trainer, backbone, stage):
    # 12 rows: steps of 8 and 4, the second cut into 1 of 2 parts; twice over
    options = {"size": 8, "steps": 4}
    whole, _ = fitted(build, trainer, stage, backbone, 1, **options)
    cut, _ = fitted(build, trainer, stage, backbone, 2, **options)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)


def test_clipping_sees_the_gradient_of_the_whole(build, trainer, backbone):
    clip = {"gradient_clip_val": 0.05}
    whole, _ = fitted(build, trainer, "sft", backbone, 1, **clip)
    cut, _ = fitted(build, trainer, "sft", backbone, 2, **clip)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)


def test_the_kl_coefficient_follows_once_a_step(build, trainer, backbone):
    rule = AdaptiveKL(target=0.1, gain=1.0, limit=0.5)
    changes = {"shaping": RewardShaping(adaptive_kl=rule)}
    betas = [
        fitted(build, trainer, "a2c", backbone, parts, changes=dict(changes))[1].kl_control.kl_coef
        for parts in (1, 2)
    ]
    assert betas[0] != 0.1
    assert betas[1] == pytest.approx(betas[0], abs=1e-12)


@pytest.mark.parametrize("scheduled", [False, True])
def test_whitening_over_parts_is_refused_before_any_work(build, trainer, scheduled):
    module, data = build("a2c", reward=LengthReward(), **WHITENED)
    options = (
        {"callbacks": [GradientAccumulationScheduler({4: 3})]}
        if scheduled
        else {"accumulate_grad_batches": 3}
    )
    with pytest.raises(ValueError, match=r"got 3.*batch_size 3 times as high.*micro_batch_tokens"):
        trainer(1, **options).fit(module, data)


def test_every_part_runs_backward_outside_of_autocast(build, trainer):
    """In it, gradients of heads that compute in float32 would have 16 bits."""
    module, data = build("reward", micro_batch_tokens=1)
    seen = []
    for weight in module.trained().values():
        weight.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    trainer(1, precision="bf16-mixed").fit(module, data)
    assert len(seen) > len(module.trained())  # of several parts
    assert not any(seen)
