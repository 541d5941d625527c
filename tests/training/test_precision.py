"""Every module steps in 16-bit precisions: losses near float32's, KL 0 before the first step."""

import dataclasses
import json
from contextlib import contextmanager

import pytest
import torch
from unpacked import unpack

from rlaif_pl.cli import main as cli
from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams, filter_logits, sample_noise
from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.calls import LoglikelihoodRequest
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.rl.function_reward import NoReward
from rlaif_pl.rl.objective import Advantages, Update
from rlaif_pl.rl.rollout import collect
from rlaif_pl.rl.shaping import RewardShaping, final_scores, repeated_share
from rlaif_pl.training import LabelingModule, PreferenceDataModule

HALVES = ("bf16-mixed", "bf16-true")
LORA = Lora(r=4, alpha=8)
# value network, adapters of the policy, trunk layers, shared prompts, recomputation, frozen type
RECIPES = [
    ("separate", None, 0, True, False, "bfloat16"),
    ("separate", LORA, 2, True, False, "bfloat16"),
    ("adapter", LORA, 2, True, True, "bfloat16"),
    ("shared_trunk", None, 2, True, False, "float32"),
    ("shared_trunk", LORA, 0, False, False, "bfloat16"),
    ("reference_features", LORA, 2, True, False, "bfloat16"),
    ("reference_features", None, 2, False, False, "bfloat16"),
    ("none", None, 0, False, True, "float32"),
    ("none", LORA, 0, True, False, "float32"),
]


class FixedReward:
    """Rewards that no 16-bit number holds, and the types they were made in."""

    def __init__(self):
        self.types = set()

    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        rewards = torch.tensor([1.001 + 0.001 * (n % 3) for n in range(len(responses))])
        self.types |= {rewards.dtype, (torch.ones(2, 2) @ torch.ones(2, 2)).dtype}
        return rewards


def options_of(backbone, trunk=2, recompute=False, dtype="float32"):
    return dataclasses.replace(
        backbone,
        trunk_layers=trunk,
        gradient_checkpointing=recompute,
        dtype=dtype,
    )


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("stage", ["sft", "reward"])
@pytest.mark.parametrize(
    ("lora", "trunk", "share", "dtype"),
    [(LORA, 2, True, "bfloat16"), (None, 0, True, "float32"), (None, 2, False, "bfloat16")],
)
def test_losses_are_near_those_of_float32(
    build, trainer, backbone, stage, precision, lora, trunk, share, dtype
):
    losses = []
    for used in ("32-true", precision):
        options = options_of(backbone, trunk, dtype="float32" if not losses else dtype)
        torch.manual_seed(0)
        whole = {"backbone": options, "lora": lora}
        changes = (
            whole if stage == "sft" else {"reward": RewardModel(**whole), "probe_penalty": 1.0}
        )
        module, data = build(stage, **changes)
        unpack(module, share)
        run = trainer(2, precision=used, limit_val_batches=1, val_check_interval=1)
        run.fit(module, data)
        found = run.callback_metrics
        losses.append([found[f"{stage}/{name}_loss"] for name in ("train", "val")])
        assert all(value.dtype == torch.float32 for value in losses[-1])
        assert all(value.isfinite().all() for value in module.trained().values())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(("value_network", "lora", "trunk", "share", "recompute", "dtype"), RECIPES)
def test_a2c_starts_at_kl_0_and_steps(
    build, trainer, backbone, precision, value_network, lora, trunk, share, recompute, dtype
):
    options = options_of(backbone, trunk, recompute, dtype)
    actor = unpack(ActorCritic(options, lora=lora, value_network=value_network), share)
    module, data = build(
        "a2c",
        actor=actor,
        reward=FixedReward(),
        advantages=Advantages(baseline="rloo", whiten=True),
    )
    run, kls, losses = trainer(2, precision=precision, limit_val_batches=1), [], []
    own = module.update_loss

    def update_loss(rollout, is_counted):
        types = {rollout.scores.dtype, rollout.ref_logprobs.dtype}
        assert types == {torch.float32}
        losses.append(own(rollout, is_counted))
        kls.append(run.callback_metrics.get("a2c/train_kl"))
        return losses[-1]

    module.update_loss = update_loss
    logged = []
    module.log_update = lambda rollout, kl, rows: logged.append(kl)  # noqa: ARG005
    run.fit(module, data)
    assert logged[0].dtype == torch.float32
    assert (logged[0] == 0).all()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses)
    assert all(value.isfinite().all() for value in module.trained().values())
    assert module.reward.types == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("trunk", [0, 2])
def test_without_autocast_too_the_reference_has_the_types_of_a_whole_policy(
    build, backbone, small_prompts, dtype, trunk
):
    actor = ActorCritic(options_of(backbone, trunk, dtype=dtype), value_network="none")
    prompts = [prompt.text for prompt in small_prompts[:3]]
    batch = actor.policy.encode(prompts, [[str(prompt.reference)] for prompt in small_prompts[:3]])
    reference, _ = actor.reference_pass(batch, None, SamplingParams(temperature=0.9))
    assert torch.equal(
        reference, actor.policy.logprobs(batch, None, SamplingParams(temperature=0.9))
    )


@pytest.mark.parametrize("precision", HALVES)
def test_a_reward_model_scores_in_float32(build, trainer, tiny_reward_folder, precision):
    reward = RewardModel(BackboneOptions(str(tiny_reward_folder)), frozen=True)
    reward.shift += 0.123456
    module, data = build("a2c", reward=reward)
    seen = []
    own = module.update_loss
    module.update_loss = lambda rollout, mask: seen.append(rollout.scores) or own(rollout, mask)
    trainer(1, precision=precision).fit(module, data)
    assert seen[0].dtype == torch.float32
    assert not torch.equal(seen[0], seen[0].bfloat16().float())
    assert reward.shift.item() == pytest.approx(0.123456, abs=1e-7)
    assert reward.head.weight.dtype == torch.float32


class Reads:
    """A labeler whose label is what its model says, to tell what the model ran in."""

    fingerprint = "reads"

    def __init__(self, backend):
        self.backend = backend
        self.values = []

    def label(self, pairs):
        calls = [LoglikelihoodRequest(pair.prompt, f" {pair.first}") for pair in pairs]
        self.backend.answer(calls, lambda _, reply: self.values.append(reply.logprobs))
        return [dataclasses.replace(pair, p_first=0.5, source="ai") for pair in pairs]


def test_labels_keep_the_precision_that_their_fingerprint_names(
    trainer, tmp_path, tiny_model_folder, data_files
):
    found = []
    for used in ("32-true", "bf16-mixed"):
        labeler = Reads(LocalBackend(str(tiny_model_folder), device="cpu"))
        module = LabelingModule(labeler, str(tmp_path / used))
        data = PreferenceDataModule("comparisons", preferences=data_files.pairs)
        trainer(1, precision=used).predict(module, data)
        found.append(labeler.values)
    assert len(found[0]) == 12
    assert found[1] == found[0]
    with pytest.raises(ValueError, match="expected trainer.precision to be 32-true for labeling"):
        trainer(1, precision="bf16-true").predict(module, data)


@pytest.mark.parametrize(
    ("precision", "value_network"),
    list(zip(HALVES, ["reference_features", "adapter"], strict=True)),
)
def test_the_quickstart_takes_a_step_by_command(
    tmp_path, tiny_model_folder, tiny_reward_folder, data_files, precision, value_network
):
    actor, reward = "--model.init_args.actor.init_args", "--model.init_args.reward.init_args"
    words = [
        "fit", "--config", "configs/quickstart/a2c.yaml",
        "--trainer.precision", precision, "--trainer.max_steps", "1",
        "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path),
        f"{actor}.backbone.name", str(tiny_model_folder), f"{actor}.backbone.trunk_layers", "2",
        f"{actor}.value_network", value_network, f"{actor}.backbone.dtype", "bfloat16",
        f"{reward}.backbone.name", str(tiny_reward_folder), f"{reward}.backbone.trunk_layers", "2",
        "--model.init_args.sampling.max_new_tokens", "5", "--data.prompts", data_files.prompts,
        "--data.validation", "null", "--data.batch_size", "2",
    ]  # fmt: skip
    assert cli.main(words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["a2c/train_kl"] == 0.0
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_16_bit_logits_are_not_rounded(backbone):
    policy = ActorCritic(options_of(backbone, dtype="bfloat16"), value_network="none").reference
    hidden = torch.randn(5, 32).bfloat16()
    exact = hidden.double() @ policy.unembedding.weight.double().T
    with torch.autocast("cpu", torch.bfloat16):
        logits = policy.logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


@contextmanager
def default_type(dtype):
    """The default type as Lightning sets it for a step in ``bf16-true``."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


TOKENS, LENGTHS = torch.tensor([[3, 4, 5, 3, 4, 5, 3], [1, 2, 0, 0, 0, 0, 0]]), torch.tensor([7, 2])
LOGITS = torch.log(torch.tensor([[1.0, 0.3001, 0.2999]]))
SHORT = RewardShaping(min_length=300, min_length_penalty=0.7)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: sample_noise([3, 4], 200),
        lambda: filter_logits(LOGITS, SamplingParams(min_p=0.3)),
        lambda: repeated_share(TOKENS, torch.arange(7) < LENGTHS[:, None]),
        lambda: repeated_share(TOKENS[:, :2], torch.ones(2, 2, dtype=torch.bool)),
        lambda: final_scores(torch.zeros(2, dtype=torch.float32), LENGTHS, LENGTHS > 0, SHORT),
        lambda: NoReward().score(["a"], ["b"]),
    ],
    ids=["noise", "min_p", "repetition", "no 3-gram", "min_length", "no reward"],
)
def test_a_default_type_of_16_bits_changes_no_number(compute):
    exact = compute()
    with default_type(torch.bfloat16):
        found = compute()
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_what_is_rarely_drawn_is_drawn_under_a_default_type_of_16_bits():
    with default_type(torch.bfloat16):
        noise = sample_noise(range(20_000), 1)
    # in bfloat16: multiples of 1/256
    assert len(noise.unique()) > 19_900


def test_a_servers_logprobs_and_the_shares_of_parts_are_float32(build, backbone, small_prompts):
    params, drawn = SamplingParams(n=2, max_new_tokens=4), [-5.0123, -0.7071, -2.3456]
    tokens = [[7, 8, 9], [9, 8, 7], [7, 7, 9], [8, 8, 9]]
    samples = Generated(tokens, [True] * 4, [False] * 4, logprobs=[drawn] * 4)
    actor = ActorCritic(options_of(backbone, trunk=0), value_network="none")
    module, _ = build("a2c", actor=actor, advantages=Advantages(baseline="rloo"))
    prompts = [prompt.text for prompt in small_prompts[:2]]
    with default_type(torch.bfloat16):
        rollout = collect(
            actor, FixedReward(), prompts, params=params, seeds=[0] * 4, samples=samples
        )
        counted = rollout.is_sampled.clone()
        counted[0, 2:] = False  # 11 tokens count: 5 of one prompt, 6 of the other
        update = Update(actor, module.objective, rollout, counted, params, most_tokens=1)
        for compute in update.losses():
            compute().backward()
        entropy = update.logged()["entropy"]
    assert torch.equal(rollout.sampler_logprobs, torch.tensor([drawn] * 4))
    whole = actor.evaluate(rollout.batch, rollout.below, None, params).tokens.entropy
    torch.testing.assert_close(entropy, whole[counted].mean(), rtol=1e-6, atol=0)


def test_weights_in_float16_are_refused_before_a_step(build, trainer):
    with pytest.raises(ValueError, match="or 16-mixed, got 16-true: squares of small gradients"):
        trainer(1, precision="16-true").fit(*build("sft"))
