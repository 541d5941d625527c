"""A2C with a reward of one's own: any Python function of prompts and responses.

About a minute on two idle cores; nothing is downloaded.
    python examples/bring_your_own_reward.py
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from lightning import Trainer, seed_everything

import rlaif_pl as rl

PROMPTS = [
    f"The {place} was {state} again this {day}, and nobody could say why."
    for place in ("library", "bakery", "harbor", "station")
    for state in ("closed", "crowded", "silent")
    for day in ("Monday", "Friday")
]


def short_and_on_topic(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Reward eight words, a full stop, and naming the place; one number a response, empty ones too."""
    return [
        -abs(len(text.split()) - 8) / 8 + text.endswith(".") + (prompt.split()[1] in text)
        for prompt, text in zip(prompts, responses, strict=True)
    ]


def main(
    model: str = "smollm2-135m", trunk_layers: int = 20, steps: int = 20
) -> tuple[float, float]:
    """Train on the function; returns its mean before and after."""
    seed_everything(0)
    sampling = rl.SamplingParams(n=8, max_new_tokens=24)
    start = rl.Policy.from_pretrained(
        model,
        trunk_layers=trunk_layers,
        lora=rl.Lora(),
        dtype="auto",
        template=rl.Template("POST: {prompt}\n\nTL;DR:"),  # rl.Template(chat=True) for a chat model
    )
    module = rl.A2CModule(
        rl.ActorCritic(start, lora=rl.Lora(), value_network="none"),
        short_and_on_topic,
        sampling,
        # each response against the others to its prompt, so no value network
        advantages=rl.Advantages(baseline="rloo"),
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0),
    )
    data = rl.PreferenceDataModule("prompts", prompts=PROMPTS, validation_fraction=0, batch_size=4)
    quiet = partial(Trainer, logger=False, enable_checkpointing=False, enable_model_summary=False)
    quiet(max_steps=steps, max_epochs=-1, gradient_clip_val=1.0).fit(module, data)
    means = []
    for name, policy in (("before", start), ("after", module.policy)):
        texts = rl.generate(policy, PROMPTS, sampling).texts
        rewards = [
            short_and_on_topic([prompt] * len(row), row)
            for prompt, row in zip(PROMPTS, texts, strict=True)
        ]
        means.append(sum(map(sum, rewards)) / sum(map(len, rewards)))
        print(f"{name}: mean reward {means[-1]:.2f}, such as {texts[0][0]!r}")
    return means[0], means[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-135m", help="a name, a folder or a hub model")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    main(**vars(parser.parse_args()))
