"""Constitutional AI from its config on the tiny model: every stage, and no harmful text on the way."""

import json

import pytest
import yaml

from rlaif_pl.config_paths import config_paths
from rlaif_pl.data.revisions import read_revisions
from rlaif_pl.data.sources import load_demonstrations, load_preferences, load_prompts
from rlaif_pl.pipeline import run

METHODS = config_paths() / "methods"
FIT = {
    "trainer.max_steps": 2,
    "trainer.max_epochs": -1,
    "trainer.accelerator": "cpu",
    "trainer.limit_val_batches": 0,
    "data.batch_size": 4,
}
JUDGE = {
    "labeler.init_args.backend.init_args.model": "${model}",
    "labeler.init_args.shots": 0,
    "labeler.init_args.verdict.min_option_mass": 0,  # a random model prefers its options to nothing
}
REWARD = {"reward.init_args.backbone.trunk_layers": 2}
SMALLER = {
    "revise": {
        "prompts.limit": 4,
        "helpful": {"name": "tiny_requests/helpful", "limit": 3},
        "backend.init_args.model": "${model}",
        "options.shots": 0,
        "options.chat_template": False,  # the tiny model has none
        "options.max_answer_tokens": 10,
        "options.max_critique_tokens": 6,
        "cut": "keep",
    },
    "sft": FIT
    | {"model.init_args.backbone.name": "${model}", "model.init_args.backbone.trunk_layers": 2},
    "sample": {
        "policy.trunk_layers": 2,
        "prompts.limit": 4,
        "sampling.n": 2,
        "sampling.max_new_tokens": 8,
    },
    "label": JUDGE,
    "alignment": JUDGE | {"data": {"name": "tiny_requests/final", "limit": 6}, "draws": 20},
    "reward": FIT
    | {
        "model.init_args.reward.init_args.backbone.trunk_layers": 2,
        "model.init_args.reward.init_args.backbone.num_layers": 3,
    },
    "evaluate_reward": REWARD | {"gold": {"name": "tiny_requests/final", "limit": 6}, "draws": 20},
    "a2c": FIT
    | {
        "model.init_args.actor.init_args.backbone.trunk_layers": 2,
        "model.init_args.reward.init_args.backbone.trunk_layers": 2,
        "model.init_args.sampling.max_new_tokens": 6,
        "model.init_args.sampling.n": 2,
    },
    "evaluate": REWARD
    | JUDGE
    | {
        "policy.trunk_layers": 2,
        "sft.trunk_layers": 2,
        "prompts.limit": 4,
        "sampling.n": 2,
        "sampling.max_new_tokens": 6,
        "reporting.draws": 20,
    },
    "report": {},
}


def smaller(file, changes, known):
    """Return an experiment with changed stages, its stage configs by their absolute paths."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {stage["name"] for stage in content["stages"]} == changes.keys()
    for stage in content["stages"]:
        if "config" in stage:
            stage["config"] = str((file.parent / stage["config"]).resolve())
        for key, value in changes[stage["name"]].items():
            stage["set"][key] = known.get(value, value) if isinstance(value, str) else value
    return content


@pytest.fixture
def no_account(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


def harmful_texts(out):
    """Return every harmful request and every reply of a run to one."""
    prompts = [
        p for part in ("train", "dev", "final") for p in load_prompts(f"tiny_requests/{part}")
    ]
    texts = {p.text.removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:") for p in prompts}
    texts |= {row.response for row in read_revisions(out / "revise" / "revisions.jsonl")}
    for pair in load_preferences(str(out / "label" / "labeled.jsonl")).rows:
        texts |= {pair.first, pair.second}
    for line in (out / "evaluate" / "sample_texts.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        texts |= {*row["sft"], *row["policy"]}
    return {text for text in texts if len(text) > 8}


@pytest.mark.slow
@pytest.mark.usefixtures("no_account")
def test_the_chain_ends_with_a_report_and_shows_no_harmful_text(
    tiny_model_folder, launch, tmp_path, capfd
):
    known = {"${model}": str(tiny_model_folder)}
    content = smaller(METHODS / "constitutional.yaml", SMALLER, known)
    file, out = tmp_path / "experiment.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert run(file, out, launch=launch) == 0

    revisions = read_revisions(out / "revise" / "revisions.jsonl")
    assert {row.round for row in revisions} == {0, 1, 2}
    groups = {
        prompt.group for prompt in load_demonstrations(str(out / "revise" / "demonstrations.jsonl"))
    }
    assert {group.split("-")[0] for group in groups} == {"train", "helpful"}
    assert all(
        row.source == "ai" for row in load_preferences(str(out / "label" / "labeled.jsonl")).rows
    )
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    for name in ("revise/round_2/responses", "reward/pair_accuracy", "a2c/kl", "labeler/alignment"):
        assert metrics[name] is not None
    assert metrics["winrate/policy_vs_sft_n"] == 4

    printed = "".join(capfd.readouterr())
    shown = [out / "report.html", out / "a2c" / "samples.csv", out / "evaluate" / "samples.jsonl"]
    for place, text in [("terminal", printed), *((p.name, p.read_text("utf-8")) for p in shown)]:
        assert not [secret for secret in harmful_texts(out) if secret in text], place
    assert "words, not shown]" in (out / "report.html").read_text("utf-8")
