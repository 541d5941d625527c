"""Two training processes, rollouts by one server: rank 0 sends weights, each asks for its prompts.

Each holds all weights, or by FSDP2 a part of them.
"""

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM
from two_ranks import HERE, bare_trainer, component, run_in_two_processes

from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.evaluation.selection import policy_weights, read_candidate
from rlaif_pl.training.checkpoints import read_checkpoint
from rlaif_pl.types import Prompt

STEPS = 3
FSDP2 = component(
    "lightning.pytorch.strategies.ModelParallelStrategy",
    data_parallel_size=2,
    tensor_parallel_size=1,
)
LORA = {"r": 4, "alpha": 8}
ALARM = component(  # goes off at the second step, and puts the weights of the first back
    "rlaif_pl.training.callbacks.HackingAlarm",
    action="stop",
    limits={"kl": 1e-9},
    window=1,
    patience=1,
    baseline_steps=1,
)
WAYS = {
    "each": {},
    "ahead": {"overlap": True},
    "divided": {"strategy": FSDP2},
    "divided_ahead": {"strategy": FSDP2, "overlap": True, "value_network": "reference_features"},
    "divided_alarm": {"strategy": FSDP2, "is_alarmed": True},
    "divided_whole": {"strategy": FSDP2, "lora": None, "trunk_layers": 0},
}


@pytest.fixture
def config(tmp_path, small_folder, tiny_reward_folder):
    """Return a maker of configs of three steps of four prompts, by one process or two."""
    prompts = [Prompt(f"Number {n} is", str(n)) for n in range(12)]
    write_prompts(tmp_path / "prompts.jsonl", prompts[:8])
    write_prompts(tmp_path / "validation.jsonl", prompts[8:])
    reward = {"backbone": {"name": str(tiny_reward_folder), "trunk_layers": 2}, "frozen": True}

    def make(
        name,
        url,
        ranks,
        strategy="ddp",
        overlap=False,
        lora=LORA,
        trunk_layers=2,
        value_network=None,
        is_alarmed=False,
    ):
        actor = {"lora": lora, "value_network": value_network}
        actor["backbone"] = {"name": small_folder, "trunk_layers": trunk_layers}
        root = tmp_path / name
        generator = {"base_url": url, "adapter_dir": str(root / "weights"), "tolerance": 1e-4}
        generator["overlap"] = overlap
        config = {
            "trainer": bare_trainer(
                root,
                ranks,
                *([ALARM] if is_alarmed else []),
                max_steps=STEPS,
                max_epochs=-1,
                gradient_clip_val=0.5,
                val_check_interval=1 if is_alarmed else STEPS,
                check_val_every_n_epoch=None,
                enable_checkpointing=True,
                strategy=strategy if ranks > 1 else "auto",
            ),
            "default_callbacks": {
                "off": ["RunLoggers"],
                "checkpoint_every": STEPS,
                "export_to": "model",
            },
            "model": component(
                "rlaif_pl.training.A2CModule",
                actor=component("rlaif_pl.models.ActorCritic", **actor),
                reward=component("rlaif_pl.models.RewardModel", **reward),
                sampling={"n": 2, "max_new_tokens": 4, "temperature": 1.0},
                optimizer=component("torch.optim.SGD", lr=0.05),
                advantages={"whiten": True},
                rollout=component("rlaif_pl.rl.VLLMGenerator", **generator),
            ),
            "data": {
                "task": "prompts",
                "prompts": str(tmp_path / "prompts.jsonl"),
                "validation": str(tmp_path / "validation.jsonl"),
                "batch_size": 4 // ranks,
                "eval_batch_size": 4 // ranks,
            },
        }
        root.with_suffix(".yaml").write_text(yaml.safe_dump(config))
        return root.with_suffix(".yaml")

    return make


@pytest.mark.slow
def test_two_processes_do_what_one_does(config, stand_in, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))

    def server_of(way):
        return stand_in(has_adapters=way.get("lora", LORA) is not None)

    servers = {name: server_of(way) for name, way in WAYS.items()}
    pairs = [config(f"{name}2", servers[name].url, 2, **way) for name, way in WAYS.items()]
    run_in_two_processes([("fit", file) for file in pairs], tmp_path)
    for name, way in WAYS.items():
        server = servers[name]
        sends = "/v1/load_lora_adapter" if way.get("lora", LORA) else "/collective_rpc"
        if "is_alarmed" not in way:
            assert server.log.count(sends) == STEPS + 1  # by one of them alone; once to validate
        file = config(f"{name}1", server_of(way).url, 1, **way)
        assert cli.main(["fit", "--config", str(file)]) == 0
        one, first, second = (
            torch.load(tmp_path / path, weights_only=True)
            for path in (f"{name}1/rank0.pt", f"{name}2/rank0.pt", f"{name}2/rank1.pt")
        )
        torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
        torch.testing.assert_close(first["weights"], one["weights"], rtol=0, atol=1e-5)
        assert first["losses"] == pytest.approx(one["losses"], abs=1e-4)
        for metric, value in one["metrics"].items():
            if "explained_variance" not in metric:  # no mean over tokens
                assert first["metrics"][metric] == pytest.approx(value, abs=1e-4), metric
        ours, theirs = (
            AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}{ranks}" / "model").state_dict()
            for ranks in (2, 1)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        kept = read_checkpoint(tmp_path / f"{name}2" / "checkpoints" / "last.ckpt")
        is_back = (tmp_path / f"{name}2" / "alarms.json").exists()
        assert is_back == ("is_alarmed" in way)
        assert kept["state_dict"].keys() == one["weights"].keys()
        found, wanted = (  # what ``select`` reads
            policy_weights(tmp_path / f"{name}{ranks}" / "checkpoints" / "last.ckpt")
            for ranks in (2, 1)
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        last = tmp_path / f"{name}2" / "checkpoints" / "last.ckpt"
        assert read_candidate(last, "a2c/val_reward") is None  # nothing was monitored
