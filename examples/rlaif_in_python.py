"""RLAIF in memory: SFT, samples, AI labels, a reward model and A2C, with a plain Lightning trainer.

No download, no file (save_pretrained(FOLDER) keeps one): python examples/rlaif_in_python.py [MODEL]
"""

import sys
from functools import partial

import torch
from lightning import LightningModule, Trainer, seed_everything

import rlaif_pl as rl
from rlaif_pl.data.sources import load_prompts


def recipe(rate: float, steps: int) -> dict:
    """Return optimizer and schedule of a module."""
    decay = partial(rl.LinearDecay, warmup_steps=1, total_steps=steps + 1)
    return {"optimizer": partial(torch.optim.AdamW, lr=rate), "scheduler": decay}


def fit(module: LightningModule, steps: int, rows: rl.PreferenceDataModule) -> None:
    """Train a module on data for a number of optimizer steps."""
    quiet = partial(Trainer, logger=False, enable_checkpointing=False, enable_model_summary=False)
    quiet(max_steps=steps, max_epochs=-1, gradient_clip_val=1.0).fit(module, rows)


def main(
    model: str = "smollm2-135m", trunk_layers: int = 20, limit: int = 24, steps: int = 12
) -> dict:
    """Run the chain on the first posts of the embedded data; returns the evaluation's metrics."""
    seed_everything(0)
    posts, held_out = load_prompts("tiny_tldr/train"), load_prompts("tiny_tldr/dev")[: limit // 2]
    few, sampling = (rl.SamplingParams(n, max_new_tokens=28, temperature=0.9) for n in (2, 4))
    tldr = rl.Template("POST: {prompt}\n\nTL;DR:")  # rl.Template(chat=True) for a chat model
    data = partial(rl.PreferenceDataModule, validation_fraction=0.0)
    load = partial(rl.Policy.from_pretrained, template=tldr, dtype="auto")
    sft = load(model, trunk_layers=trunk_layers, lora=rl.Lora())
    module = rl.SFTModule(sft, max_response_tokens=32, **recipe(1e-3, steps))
    fit(module, steps, data("demonstrations", demonstrations=posts[: 4 * limit]))
    labeler = rl.LikelihoodLabeler(rl.LocalBackend(model), pmi_weight=0.2, temperature=0.15)
    pairs = rl.label(rl.generate(sft, posts[:limit], sampling).pairs(), labeler)
    reward = rl.RewardModel.from_pretrained(sft, lora=rl.Lora(), pooling="mean")
    judge = rl.RewardModule(reward, posts[:limit], probe_penalty=0.1, **recipe(2e-4, steps // 2))
    fit(judge, steps // 2, data("pairs", preferences=pairs))
    actor = rl.ActorCritic(sft, lora=rl.Lora(), value_network="reference_features")
    shaping = rl.RewardShaping(missing_eos_penalty=0.5, min_length=8, min_length_penalty=3.0)
    rloo = rl.Advantages(baseline="rloo")
    a2c = rl.A2CModule(actor, reward, sampling, shaping, rloo, **recipe(1e-3, steps))
    fit(a2c, steps, data("prompts", prompts=posts[:limit], batch_size=4))
    report = rl.evaluate(a2c.policy, sft, held_out, few, reward=reward, labeler=labeler)
    print("wins against SFT by the labeler:", report.win_rates["policy_vs_sft"].raw.percent())
    for post, before, after in zip(held_out[:2], report.samples.sft, report.samples.policy):  # noqa: B905
        print(f"\n{post.text}\n  SFT: {before[0]}\n  A2C: {after[0]}")
    return report.to_metrics()


if __name__ == "__main__":
    main(next(iter(sys.argv[1:]), "smollm2-135m"))
