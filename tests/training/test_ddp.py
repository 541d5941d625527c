"""Two processes do what one does with both their batches, through the command line.

The data is uneven on purpose: the last training batch has one row for two ranks and so has the last
validation batch. Both ranks must end with the same weights, equal to those of one process with
batches twice as large, and nobody may wait for ever.
"""

from dataclasses import replace

import pytest
import torch
import yaml
from two_ranks import HERE, bare_trainer, component, run_in_two_processes

from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.sources import load_preferences

STAGES = ("sft", "reward", "dpo", "a2c", "grpo")


@pytest.fixture(scope="module")
def configs(tmp_path_factory, tiny_model_folder, tiny_reward_folder, small_prompts, small_pairs):
    """Write each stage's config for two ranks and for one; returns the folder."""
    folder = tmp_path_factory.mktemp("ddp")
    write_prompts(folder / "train_prompts.jsonl", small_prompts[:5])
    write_prompts(folder / "val_prompts.jsonl", small_prompts[5:8])
    write_preferences(folder / "train_pairs.jsonl", small_pairs[:5])
    write_preferences(folder / "val_pairs.jsonl", small_pairs[5:8])
    backbone = {"name": str(tiny_model_folder), "trunk_layers": 2}
    lora = {"r": 4, "alpha": 8}
    frozen = {"backbone": {**backbone, "name": str(tiny_reward_folder)}, "frozen": True}
    models = {
        "sft": {"backbone": backbone, "lora": lora},
        "reward": {
            "reward": component("rlaif_pl.models.RewardModel", backbone=backbone, lora=lora),
            "references": str(folder / "val_prompts.jsonl"),
        },
        "a2c": {
            "actor": component("rlaif_pl.models.ActorCritic", backbone=backbone, lora=lora),
            "reward": component("rlaif_pl.models.RewardModel", **frozen),
            "sampling": {"n": 2, "max_new_tokens": 6, "temperature": 0.9},
            "advantages": {"whiten": True},
            "shaping": {"adaptive_kl": {"target": 0.05, "gain": 0.9, "limit": 1.0}},
        },
    }
    grpo = {"baseline": "group_mean", "scale": "group_std", "loss": "sequence_mean"}
    models["grpo"] = models["a2c"] | {"advantages": grpo}
    kinds = {"sft": "demonstrations", "reward": "pairs", "a2c": "prompts", "grpo": "prompts"}
    modules = {"sft": "SFTModule", "reward": "RewardModule", "a2c": "A2CModule"}
    models["dpo"] = models["sft"]
    kinds |= {"dpo": "pairs"}
    modules |= {"dpo": "DPOModule", "grpo": "A2CModule"}
    for stage in STAGES:
        rows = "pairs" if kinds[stage] == "pairs" else "prompts"
        for ranks in (1, 2):
            root = folder / f"{stage}{ranks}"
            config = {
                "trainer": trainer_options(root, ranks),
                "model": component(
                    f"rlaif_pl.training.{modules[stage]}",
                    optimizer=component("torch.optim.SGD", lr=0.05),
                    **models[stage],
                    # in parts on two ranks, whole on one: neither may matter
                    micro_batch_tokens=40 if ranks > 1 else None,
                ),
                "data": {
                    "task": kinds[stage],
                    "preferences" if rows == "pairs" else kinds[stage]: str(
                        folder / f"train_{rows}.jsonl"
                    ),
                    "validation": str(folder / f"val_{rows}.jsonl"),
                    "batch_size": 4 // ranks,
                    "eval_batch_size": 2 // ranks,
                },
            }
            root.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    for ranks in (1, 2):
        write_labeling(folder, ranks, small_pairs[0], backbone["name"])
    return folder


def write_labeling(folder, ranks, pair, model):
    """Write the config of a labeling of one pair: fewer than there are ranks."""
    write_preferences(folder / "pair.jsonl", [replace(pair, p_first=None, source=None)])
    options = trainer_options(folder, ranks)
    keys = ("accelerator", "devices", "strategy", "logger", "enable_progress_bar")
    config = {
        "trainer": {key: options[key] for key in keys},
        "model": component(
            "rlaif_pl.training.LabelingModule",
            out=str(folder / f"labels{ranks}"),
            labeler=component("rlaif_pl.labeling.LikelihoodLabeler", backend=model),
        ),
        "data": {"task": "comparisons", "preferences": str(folder / "pair.jsonl")},
    }
    (folder / f"labels{ranks}.yaml").write_text(yaml.safe_dump(config))


def trainer_options(root, ranks):
    return bare_trainer(
        root,
        ranks,
        component("rlaif_pl.training.callbacks.TerminateOnNaN"),
        component("rlaif_pl.training.callbacks.ExportModel", folder="model"),
        max_epochs=2,
        gradient_clip_val=1.0,
    )


@pytest.fixture(scope="module")
def fitted(configs):
    """Fit the three stages one after the other in each of two processes."""
    fits = [("fit", configs / f"{stage}2.yaml") for stage in STAGES]
    run_in_two_processes([*fits, ("predict", configs / "labels2.yaml")], configs)
    return configs


def record(folder, stage, ranks, rank=0):
    return torch.load(folder / f"{stage}{ranks}" / f"rank{rank}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_end_with_the_same_weights(fitted, stage):
    first, second = (record(fitted, stage, 2, rank) for rank in range(2))
    assert first["ranks"] == second["ranks"] == 2
    for part in ("weights", "gradients"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_equal_one_process_with_both_batches(fitted, stage, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert cli.main(["fit", "--config", str(fitted / f"{stage}1.yaml")]) == 0
    one, two = record(fitted, stage, 1), record(fitted, stage, 2)
    torch.testing.assert_close(two["gradients"], one["gradients"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-5)
    measured = [name for name in one["metrics"] if "/val_" in name]
    assert measured
    for name in measured:
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_rank_without_any_pair_labels_nothing_and_waits_for_nobody(fitted):
    assert cli.main(["predict", "--config", str(fitted / "labels1.yaml")]) == 0
    (one,), (two,) = (
        load_preferences(str(fitted / f"labels{n}" / "labeled.jsonl")).rows for n in (1, 2)
    )
    assert one.p_first == pytest.approx(two.p_first, abs=1e-5)
    assert (one.prompt, one.first, one.second) == (two.prompt, two.first, two.second)


@pytest.mark.slow
def test_rank_0_alone_exports(fitted):
    for stage in STAGES:
        assert (fitted / f"{stage}2" / "model" / "model.safetensors").is_file()
