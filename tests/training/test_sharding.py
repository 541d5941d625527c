"""FSDP2 over two processes does what one process does with both their batches, and can go on.

Five training rows in batches of four: the last batch has one row for two ranks.
"""

from unittest.mock import Mock

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from two_ranks import HERE, component, run_in_two_processes

from rlaif_pl.cli import main as cli
from rlaif_pl.data.checksum import is_whole, parts_of, previous_of
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.training import A2CModule, LabelingModule, RewardModule
from rlaif_pl.training.checkpoints import read_checkpoint
from rlaif_pl.training.sharding import LOCAL, SHAPE, joined
from rlaif_pl.training.sharding_strategy import ShardingStrategy
from rlaif_pl.training.trainer_check import check_sharding

FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
HALF, STEPS = 3, 5  # of two an epoch: it is within an epoch that the fits of two ranks resume
SIZES = {"data_parallel_size": 2, "tensor_parallel_size": 1}
# Kind, whether adapters are trained, and whether the checkpoint is a folder with a file a process.
CASES = {
    "sft_lora": ("sft", True, False),
    "sft_whole": ("sft", False, True),
    "reward_lora": ("reward", True, True),
    "reward_whole": ("reward", False, False),
}
RESUMED = ("sft_lora", "sft_whole", "reward_whole")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_folder, small_prompts, small_pairs):
    """Write each fit's config for one process, and for two as a beginning and the rest."""
    folder = tmp_path_factory.mktemp("sharding")
    write_prompts(folder / "sft.jsonl", small_prompts[:5])
    write_prompts(folder / "val_sft.jsonl", small_prompts[5:8])
    write_preferences(folder / "reward.jsonl", small_pairs[:5])
    write_preferences(folder / "val_reward.jsonl", small_pairs[5:8])

    def write(name, config, is_folder=None, **trainer):
        config["trainer"] |= {"default_root_dir": str(folder / name), **trainer}
        if is_folder is not None:
            strategy = component(FSDP2, **SIZES, save_distributed_checkpoint=is_folder)
            config["trainer"]["strategy"] = strategy
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))

    for name, (kind, is_lora, is_folder) in CASES.items():
        backbone = {"name": str(tiny_model_folder), "trunk_layers": 2 if is_lora else 0}
        backbone["gradient_checkpointing"] = name == "sft_lora"
        model = {"backbone": backbone, "lora": {"r": 3, "alpha": 8} if is_lora else None}
        if kind == "reward":
            reward = component("rlaif_pl.models.RewardModel", **model)
            model = {"reward": reward, "references": str(folder / "val_sft.jsonl")}
            model["probe_penalty"] = 0.1 if is_lora else None
        write(f"{name}1", config_of(folder, kind, model, 1, is_lora))
        config = config_of(folder, kind, model, 2, is_lora)
        if name in RESUMED:
            callbacks = {**config["default_callbacks"], "off": ["RunLoggers", "ExportModel"]}
            begun = config_of(folder, kind, model, 2, is_lora) | {"default_callbacks": callbacks}
            write(f"{name}2_begun", begun, is_folder, max_steps=HALF)
            config["ckpt_path"] = str(folder / f"{name}2_begun" / "checkpoints" / "last.ckpt")
        write(f"{name}2", config, is_folder)
        if name == "sft_whole":
            config = config_of(folder, kind, model, 2, is_lora)
            write("sft_half2", config, True, precision="bf16-mixed")
    return folder


def config_of(folder, kind, model, ranks, is_lora):
    # A large eps: without it Adam makes large steps of gradients that are nothing but rounding.
    adam = component("torch.optim.AdamW", lr=0.01, eps=0.01)
    sgd = component("torch.optim.SGD", lr=0.05, momentum=0.9)
    names = {"sft": ("SFTModule", "demonstrations"), "reward": ("RewardModule", "pairs")}
    module, task = names[kind]
    return {
        "trainer": {
            "max_epochs": -1,
            "max_steps": STEPS,
            "accelerator": "cpu",
            "devices": ranks,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 0.5,
            "check_val_every_n_epoch": None,
            "val_check_interval": STEPS,
            "callbacks": [component("rank_record.RankRecord")],
        },
        "default_callbacks": {"off": ["RunLoggers"], "checkpoint_every": 1, "export_to": "model"},
        "model": component(
            f"rlaif_pl.training.{module}",
            optimizer=adam if is_lora else sgd,
            **model,
        ),
        "data": {
            "task": task,
            "preferences" if kind == "reward" else task: str(folder / f"{kind}.jsonl"),
            "validation": str(folder / f"val_{kind}.jsonl"),
            "batch_size": 4 // ranks,
            "eval_batch_size": 2 // ranks,
        },
    }


@pytest.fixture(scope="module")
def fitted(folder):
    """Run all fits of two ranks, one after the other, in one pair of processes."""
    names = [*(f"{name}2_begun" for name in RESUMED), *(f"{name}2" for name in CASES), "sft_half2"]
    run_in_two_processes([("fit", folder / f"{name}.yaml") for name in names], folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """Run the same fits, unbroken, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("WANDB_MODE", "disabled")
        for name in CASES:
            assert cli.main(["fit", "--config", str(folder / f"{name}1.yaml")]) == 0
    return folder


def record(folder, name, rank=0):
    return torch.load(folder / name / f"rank{rank}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_that_resume_equal_one_process_that_does_not(fitted, alone, name):
    one, two, other = (
        record(alone, f"{name}1"),
        record(fitted, f"{name}2"),
        record(fitted, f"{name}2", 1),
    )
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"][HALF if name in RESUMED else 0 :], abs=1e-5)
    for part in ("weights", "gradients"):
        torch.testing.assert_close(two[part], one[part], rtol=0, atol=1e-5)
        torch.testing.assert_close(two[part], other[part], rtol=0, atol=0)
    measured = [key for key in one["metrics"] if "/val_" in key]
    assert measured
    for key in measured:
        assert two["metrics"][key] == pytest.approx(one["metrics"][key], abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_export_is_that_of_one_process(fitted, alone, name):
    kind = AutoModelForCausalLM if name.startswith("sft") else AutoModelForSequenceClassification
    two, one = (kind.from_pretrained(alone / f"{name}{ranks}" / "model") for ranks in (2, 1))
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=0, atol=1e-5)
    if name.startswith("reward"):
        assert two.config.reward_shift == pytest.approx(one.config.reward_shift, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_checkpoints_hold_what_is_trained_whole_or_a_file_a_rank(fitted, alone, name):
    path = fitted / f"{name}2" / "checkpoints" / "last.ckpt"
    assert path.is_dir() == CASES[name][2]
    assert is_whole(path)
    assert is_whole(previous_of(path))
    one = read_checkpoint(alone / f"{name}1" / "checkpoints" / "last.ckpt")
    two = read_checkpoint(path)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=0, atol=1e-5)
    ours, theirs = (each["optimizer_states"][0] for each in (two, one))
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=1e-5)
    assert ours["param_groups"] == theirs["param_groups"]
    if path.is_dir():
        parts = [read_checkpoint(part)["state_dict"] for part in parts_of(path)]
        for key, whole in one["state_dict"].items():  # each has rows of its own
            if key == "reward.shift":  # and the zero point
                for part in parts:
                    torch.testing.assert_close(part[key], whole, rtol=0, atol=1e-5)
                continue
            rows = [len(part[key][LOCAL]) for part in parts]
            assert sum(rows) == len(whole)
            assert rows[0] == -(-len(whole) // 2)
        part = parts_of(path)[1]
        part.write_bytes(part.read_bytes()[:-100])
        assert not is_whole(path)
        with pytest.raises(ValueError, match="rank1of2.ckpt, got an archive without its end"):
            read_checkpoint(path)
        part.unlink()
        with pytest.raises(ValueError, match=r"the file of each process \(rank1of2.ckpt\)"):
            read_checkpoint(path)


@pytest.mark.slow
def test_one_process_goes_on_from_the_folder_of_two(fitted, alone, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    begun = fitted / "sft_whole2_begun" / "checkpoints" / "last.ckpt"
    assert begun.is_dir()
    line = ["fit", "--config", str(fitted / "sft_whole1.yaml"), f"--ckpt_path={begun}"]
    root = fitted / "sft_whole_on"
    assert cli.main([*line, f"--trainer.default_root_dir={root}"]) == 0
    on, one = record(fitted, root.name), record(alone, "sft_whole1")
    torch.testing.assert_close(on["weights"], one["weights"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_layers_compute_in_16_bits_and_what_is_trained_stays_in_32(fitted, alone):
    half, one = record(fitted, "sft_half2"), record(alone, "sft_whole1")
    assert half["losses"] == pytest.approx(one["losses"], abs=0.02)
    assert half["losses"] != pytest.approx(one["losses"], abs=1e-5)
    assert {weight.dtype for weight in half["weights"].values()} == {torch.float32}


@pytest.mark.parametrize(
    ("module", "changes", "said"),
    [
        (A2CModule, {"draws_here": True}, "servers that draw.*rollout to rlaif_pl.rl.VLLMG"),
        (LabelingModule, {}, "SFTModule, RewardModule or A2CModule.*take the strategy ddp"),
        (RewardModule, {"tensor_parallel": 2}, "data_parallel_size: 2 and tensor_parallel_size: 1"),
        (RewardModule, {"data_parallel": "auto"}, "got 'auto' and 1"),
        (RewardModule, {"data_parallel": 1}, "got 1 and 1"),
        (RewardModule, {"precision": "bf16-true"}, "32-true or bf16-mixed .* got 'bf16-true'"),
        (RewardModule, {"micro_batch_tokens": 9}, "raise trainer.accumulate_grad_batches"),
    ],
)
def test_what_does_not_go_with_divided_weights_is_refused(module, changes, said):
    options = {"data_parallel": 2, "tensor_parallel": 1, "precision": "32-true"}
    options |= {"ranks": 2, "micro_batch_tokens": None, **changes}
    with pytest.raises(ValueError, match=said):
        check_sharding(module, **options)


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_address_reaches_lightning_as_it_is_or_is_refused(tmp_path, monkeypatch, is_folder):
    monkeypatch.chdir(tmp_path)
    strategy = ShardingStrategy(save_distributed_checkpoint=is_folder)
    monkeypatch.setattr(strategy, "broadcast", lambda place: place)
    strategy._checkpoint_io = io = Mock()
    address = "s3://bucket/last.ckpt"
    if is_folder:
        with pytest.raises(
            ValueError, match="local folder .* got s3://bucket/last.ckpt; set save_"
        ):
            strategy.save_checkpoint({}, address)
    else:
        strategy.save_checkpoint({}, address)
        io.save_checkpoint.assert_called_once_with({}, address, storage_options=None)
    io.load_checkpoint.return_value = {"epoch": 1}
    assert strategy.load_checkpoint(address) == {"epoch": 1}
    io.load_checkpoint.assert_called_once_with(address)
    assert not list(tmp_path.iterdir())


def test_parts_are_put_together_by_rows():
    rows = [torch.arange(6.0).view(3, 2), torch.arange(6.0, 10.0).view(2, 2), torch.empty(0)]
    parts = [{"w": {LOCAL: part, SHAPE: [5, 2]}, "lr": 0.1, "steps": [3]} for part in rows]
    whole = joined(parts)
    torch.testing.assert_close(whole["w"], torch.arange(10.0).view(5, 2), rtol=0, atol=0)
    assert (whole["lr"], whole["steps"]) == (0.1, [3])
