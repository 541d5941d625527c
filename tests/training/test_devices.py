"""A step of every module on a device against the CPU's, its precisions, a fit by command, a resume.

On ``cuda`` float32 is held to the CPU's own rounding (``tests/plugins/rounding.py``); on ``cpu`` the
same comparison runs, of the CPU with itself.
"""

import json

import pytest
import torch
from rounding import assert_within_noise, gradients, packed

from rlaif_pl.cli import main as cli
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.engine.noise import with_noise
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.models.policy import load_policy
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.text import Template
from rlaif_pl.types import Batch

CPU = torch.device("cpu")
LORA = Lora(r=4, alpha=8)
NETWORKS = {
    "separate": None,
    "adapter": LORA,
    "shared_trunk": LORA,
    "reference_features": LORA,
    "none": LORA,
}
STEPS = [
    ("sft", {"lora": LORA}),
    ("sft", {"lora": None}),
    ("reward", {"pooling": "eos"}),
    ("reward", {"pooling": "mean"}),
    *(("a2c", {"network": name}) for name in NETWORKS),
]
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
# The first step of Adam moves a weight by the learning rate wherever its gradient points, also where
# the gradient is hardly more than rounding: so by norm, and in 16 bits by direction. With the last bits
# of embeddings changed a CPU gives 1e-4, and 0.97 in 16 bits.
SAME_STEP, ALIKE = 0.01, 0.9


@pytest.fixture
def start(build, backbone):
    """Return a builder of a stage's module and data, the same at every call."""

    def start(stage, lora=LORA, pooling="eos", network="adapter", **changes):
        if stage == "sft":
            changes["lora"] = lora
        elif stage == "reward":
            changes["reward"] = RewardModel(backbone, lora=LORA, pooling=pooling)
        else:
            actor = ActorCritic(backbone, lora=NETWORKS[network], value_network=network)
            if (
                actor.value_head is not None
            ):  # it starts at 0, where nothing below it has a gradient
                generator = torch.Generator().manual_seed(1)
                weight = actor.value_head.weight
                weight.data = torch.randn(weight.shape, generator=generator)
            changes |= {"actor": actor, "advantages": Advantages(baseline="rloo", whiten=True)}
        return build(stage, **changes)

    return start


def batch_of(stage, prompts, pairs):
    rows = (pairs if stage == "reward" else prompts)[:4]
    return Batch(rows, range(len(rows)), [False] * len(rows))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(("stage", "settings"), STEPS)
def test_loss_and_gradients_in_float32(start, device, small_prompts, small_pairs, stage, settings):
    batch, kls = batch_of(stage, small_prompts, small_pairs), []

    def run(place, noisy=False):
        module = start(stage, **settings)[0].to(place)
        module.log_update = lambda rollout, kl, rows: kls.append(kl)  # noqa: ARG005
        model = module.reward.model if stage == "reward" else module.policy
        bottom = runners_of(model)[0].decoder
        assert torch.get_float32_matmul_precision() == "highest"
        loss = (
            with_noise(lambda: module.training_step(batch, 0), bottom)
            if noisy
            else module.training_step(batch, 0)
        )
        loss.backward()
        samples = [row.response for row in getattr(module, "latest_samples", [])]
        return loss.item(), gradients(module), samples

    found, exact, noisy = run(device), run(CPU), run(CPU, noisy=True)
    assert found[2] == exact[2] == noisy[2]
    assert len(exact[2]) == (8 if stage == "a2c" else 0)
    assert all((kl == 0).all() for kl in kls[:2])  # the policy is the reference yet
    # terms of both signs cancel in the loss, so that its own noise may be none
    assert found[0] == pytest.approx(exact[0], rel=1e-4, abs=1e-5)
    assert_within_noise(found[1], exact[1], noisy[1])


def fitted(trainer, start, stage, device, precision, steps=1):
    """Fit; gives losses, the first step's KL and by how much each weight moved."""
    place = {"accelerator": "gpu", "devices": 1} if device.type == "cuda" else {}
    module, data = start(stage)
    before = packed(module.trained().values())
    run, kls = trainer(steps, precision=precision, **place), []
    module.log_update = lambda rollout, kl, rows: kls.append(kl.cpu())  # noqa: ARG005
    run.fit(module, data)
    assert all(value.isfinite().all() for value in module.trained().values())
    loss = run.callback_metrics[f"{stage}/train_loss"].item() if stage != "a2c" else 0.0
    return loss, kls, packed(module.trained().values()) - before


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", ["sft", "reward", "a2c"])
def test_a_step_of_the_trainer(start, trainer, device, stage, precision):
    loss, kls, moved = fitted(trainer, start, stage, device, precision)
    assert len(kls) == (stage == "a2c")
    for kl in kls:
        assert kl.dtype == torch.float32
        assert (kl == 0).all()
    if stage == "a2c" and precision != "32-true":
        assert moved.any()
        return  # other tokens are drawn, whose loss is another
    expected, _, wanted = fitted(trainer, start, stage, CPU, "32-true")
    is_exact = precision == "32-true"
    assert loss == pytest.approx(expected, rel=1e-4 if is_exact else 0.02, abs=1e-5)
    if is_exact:
        assert (moved - wanted).norm() <= SAME_STEP * wanted.norm()
    assert torch.cosine_similarity(moved, wanted, dim=0) > ALIKE


@pytest.mark.parametrize("stage", ["sft", "reward", "a2c"])
def test_a_resumed_fit(start, trainer, device, tmp_path, stage):
    place = {"accelerator": "gpu", "devices": 1} if device.type == "cuda" else {}
    whole, data = start(stage)
    before = packed(whole.trained().values())
    trainer(4, **place).fit(whole, data)
    first, data = start(stage)
    trainer(2, tmp_path, **place).fit(first, data)
    second, data = start(stage)
    trainer(4, **place).fit(second, data, ckpt_path=tmp_path / "last.ckpt")
    wanted, found = (packed(module.trained().values()) for module in (whole, second))
    # CUDA adds some gradients in the order in which its blocks happen to end
    allowed = 0.0 if device.type == "cpu" else 0.01 * (wanted - before).norm()
    assert (found - wanted).norm() <= allowed
    assert (wanted - before).norm() > 0


@pytest.fixture
def command(tmp_path, device):
    """Return a runner of a command on the device that gives the metrics it wrote."""

    def run(name, *words):
        out = tmp_path / name.replace(" ", "-")
        told = [*name.split(), *words, f"--out={out}", f"--device={device.type}"]
        assert cli.main(told) == 0
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))

    return run


def test_a_fit_by_command_and_what_reads_it(
    command, device, tmp_path, tiny_model_folder, tiny_reward_folder, data_files, small_prompts
):
    folder, tiny = tmp_path / "run", str(tiny_model_folder)
    words = [
        "fit", "--config", "configs/quickstart/sft.yaml", "--trainer.max_epochs", "-1",
        "--trainer.accelerator", "gpu" if device.type == "cuda" else "cpu",
        "--trainer.default_root_dir", str(folder), "--trainer.limit_val_batches", "1",
        "--default_callbacks.checkpoint_every", "1", "--model.init_args.backbone.name", tiny,
        "--model.init_args.backbone.dtype", "float32", "--model.init_args.lora.r", "4",
        "--data.demonstrations", data_files.prompts, "--data.validation", "null",
        "--data.batch_size", "4",
    ]  # fmt: skip
    assert cli.main([*words, "--trainer.max_steps", "2"]) == 0
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert cli.main([*words, "--trainer.max_steps", "4", "--ckpt_path", str(last)]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 4
    policy = folder / "policy"
    texts = [prompt.text for prompt in small_prompts[:3]]
    references = [[str(prompt.reference)] for prompt in small_prompts[:3]]
    found = []
    for place in (device, CPU):
        model = load_policy(BackboneOptions(str(policy)), Template()).to(place)
        with torch.no_grad():
            found.append(model.logprobs(model.encode(texts, references)).cpu())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    rows = f"--prompts.name={data_files.prompts}", "--prompts.limit=3"
    short = "--sampling.n=2", "--sampling.max_new_tokens=6"
    command("sample", f"--policy.name={policy}", *rows, *short)
    assert load_preferences(str(tmp_path / "sample" / "pairs.jsonl")).rows
    metrics = command(
        "evaluate policy",
        f"--policy.name={policy}",
        f"--sft.name={tiny}",
        "--reward=rlaif_pl.models.RewardModel",
        f"--reward.backbone.name={tiny_reward_folder}",
        "--reward.frozen=true",
        "--labeler=rlaif_pl.labeling.LikelihoodLabeler",
        f"--labeler.backend={tiny}",
        *rows,
        *short,
        "--reporting.draws=20",
    )
    assert 0 <= metrics["winrate/policy_vs_sft"] <= 1
    assert torch.tensor(metrics["a2c/kl"]).isfinite()
