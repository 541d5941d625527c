"""Model cards of exported folders: how the model reads a text, and code that uses it as it is.

A policy that is given another template than the one it was trained with answers badly, and nothing
in a transformers folder says which one that was; so the card does, on the hub and off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from rlaif_pl.text import Template

FROM = "rlaif_pl (reinforcement learning from AI feedback, arXiv 2309.00267)"
POLICY_USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
text = {prompt!r}.replace("{{prompt}}", "What the policy is to respond to.")
asked = tokenizer(text, return_tensors="pt")
written = model.generate(**asked, do_sample=False, max_new_tokens=64)
response = tokenizer.decode(written[0, asked.input_ids.shape[1] :], skip_special_tokens=True)
"""
ADAPTER_USE = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
text = {prompt!r}.replace("{{prompt}}", "What the policy is to respond to.")
asked = tokenizer(text, return_tensors="pt")
written = model.generate(**asked, do_sample=False, max_new_tokens=64)
response = tokenizer.decode(written[0, asked.input_ids.shape[1] :], skip_special_tokens=True)
"""
EOS_USE = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
text = {prompt!r}.replace("{{prompt}}", "What was responded to.")
response = {response!r}.replace("{{response}}", "A response.")
ids = [*tokenizer(text).input_ids, *tokenizer(response, add_special_tokens=False).input_ids]
ids.append(tokenizer.eos_token_id)  # the reward is read there
with torch.no_grad():
    reward = model(input_ids=torch.tensor([ids])).logits[0, 0] - model.config.reward_shift
"""
MEAN_USE = """\
from rlaif_pl import RewardModel

model = RewardModel.from_pretrained(".", frozen=True)  # reads texts as written above
reward = model.score(["What was responded to."], ["A response."])[0]
"""


def policy_card(base: str, template: Template, ends: Sequence[str] = ()) -> str:
    """Write the card of a policy."""
    named = ", ".join(f"`{token}`" for token in ends)
    about = f" A text ends at {named} (generation_config.json)." if ends else ""
    return _card(
        "A policy",
        base,
        {"library_name": "transformers", "pipeline_tag": "text-generation"},
        f"A policy trained with {FROM}.{about}",
        template,
        POLICY_USE,
    )


def adapter_card(base: str, template: Template) -> str:
    """Write the card of a policy's adapters."""
    return _card(
        "A policy's adapters",
        base,
        {"library_name": "peft", "pipeline_tag": "text-generation"},
        f"LoRA adapters of a policy trained with {FROM}; they need their base model.",
        template,
        ADAPTER_USE,
    )


def reward_card(base: str, template: Template, pooling: str) -> str:
    """Write the card of a reward model."""
    read = "at EOS, which must follow the response" if pooling == "eos" else "from the mean state"
    return _card(
        "A reward model",
        base,
        {"library_name": "transformers", "pipeline_tag": "text-classification"},
        f"A reward model trained with {FROM}. One number a response, in nats, read {read}; "
        "differences between responses to one prompt mean something, the zero does not.",
        template,
        EOS_USE if pooling == "eos" else MEAN_USE,
    )


def _card(
    title: str, base: str, known: dict[str, object], about: str, template: Template, use: str
) -> str:
    if Path(base).is_absolute():
        base = "/".join(Path(base).parts[-2:])  # the rest is about this machine
    elif base.count("/") == 1 and not Path(base).exists():
        known["base_model"] = base  # the hub refuses a card that names a folder there
    known["tags"] = ["rlaif", "ai-feedback"]
    words = template.max_prompt_words
    cut = "" if words is None else f" Prompts of more than {words} words were cut there."
    code = use.format(prompt=template.prompt, response=template.response)
    parts = [
        "---\n" + yaml.safe_dump(known, sort_keys=False) + "---",
        f"# {title}",
        f"{about} Trained from `{base}`.",
        "## How a text is read",
        "White space counts: a prompt written otherwise than in training gets other answers." + cut,
        f"    prompt:   {template.prompt!r}\n    response: {template.response!r}",
        f"## Use\n\n```python\n{code}```",
        "Config, metrics and versions of the run lie beside this folder where it was made "
        "(`resolved_config.yaml`, `metrics.json`, `run_facts.json`). No license is declared: the base "
        "model's and the data's apply.",
    ]
    return "\n\n".join(parts) + "\n"
