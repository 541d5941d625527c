"""Two training processes, rollouts by one server: rank 0 sends weights, each asks for its prompts."""

import pytest
import torch
import yaml
from two_ranks import HERE, bare_trainer, component, run_in_two_processes

from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.types import Prompt

STEPS = 3


@pytest.fixture
def config(tmp_path, small_folder, tiny_reward_folder):
    """Return a maker of configs of three steps of four prompts, by one process or two."""
    prompts = [Prompt(f"Number {n} is", str(n)) for n in range(8)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    backbone = {"name": small_folder, "trunk_layers": 2}
    reward = {"backbone": {"name": str(tiny_reward_folder), "trunk_layers": 2}, "frozen": True}

    def make(name, url, ranks, overlap):
        root = tmp_path / name
        generator = {"base_url": url, "adapter_dir": str(root / "weights"), "tolerance": 1e-4}
        config = {
            "trainer": bare_trainer(
                root, ranks, max_steps=STEPS, max_epochs=-1, limit_val_batches=0
            ),
            "default_callbacks": {"off": ["all"]},
            "model": component(
                "rlaif_pl.training.A2CModule",
                actor=component(
                    "rlaif_pl.models.ActorCritic", backbone=backbone, lora={"r": 4, "alpha": 8}
                ),
                reward=component("rlaif_pl.models.RewardModel", **reward),
                sampling={"n": 2, "max_new_tokens": 4, "temperature": 1.0},
                optimizer=component("torch.optim.SGD", lr=0.05),
                whiten_advantages=True,
                rollout=component("rlaif_pl.engine.VLLMGenerator", **generator),
                overlap=overlap,
            ),
            "data": {
                "task": "prompts",
                "prompts": str(tmp_path / "prompts.jsonl"),
                "validation_fraction": 0.0,
                "batch_size": 4 // ranks,
            },
        }
        root.with_suffix(".yaml").write_text(yaml.safe_dump(config))
        return root.with_suffix(".yaml")

    return make


@pytest.mark.slow
def test_two_processes_do_what_one_does(config, stand_in, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    ways = {"each": False, "ahead": True}
    servers = {name: stand_in() for name in ways}
    pairs = [config(f"{name}2", servers[name].url, 2, way) for name, way in ways.items()]
    run_in_two_processes([("fit", file) for file in pairs], tmp_path)
    for name, way in ways.items():
        server = servers[name]
        assert server.log.count("/v1/load_lora_adapter") == STEPS  # by one of them alone
        file = config(f"{name}1", stand_in().url, 1, way)
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
