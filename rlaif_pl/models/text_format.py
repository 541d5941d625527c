"""How an exported model reads its texts: for programs in ``rlaif_pl.json``, for people in its card."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml
from transformers.utils import cached_file

from rlaif_pl.models.adapters import adapter_source
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.models.chat_format import NO_THOUGHTS
from rlaif_pl.text import TLDR, Template, parse_json

FILE = "rlaif_pl.json"  # beside the weights; transformers, peft and vLLM leave it alone
ASKED = """\
text = {prompt!r}.replace("{{prompt}}", "{said}")
asked = tokenizer(text, return_tensors="pt")
"""
CHAT_ASKED = """\
asked = tokenizer.apply_chat_template(
    {messages},
    add_generation_prompt=True,
    return_dict=True,
    return_tensors="pt",
    **{options},
)
"""
FROM = "rlaif_pl (reinforcement learning from AI feedback, arXiv 2309.00267)"
WRITES = """\
{asked}written = model.generate(**asked, do_sample=False, max_new_tokens=64)
response = tokenizer.decode(written[0, asked.input_ids.shape[1] :], skip_special_tokens=True)
"""
POLICY_USE = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
{WRITES}"""
ADAPTER_USE = f"""\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
{WRITES}"""
EOS_USE = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
{asked}response = {response!r}.replace("{{response}}", "A response.")
ids = [
    *asked.input_ids[0].tolist(),
    *tokenizer(response, add_special_tokens=False).input_ids,
]
ids.append(tokenizer.eos_token_id)  # the reward is read there
with torch.no_grad():
    reward = model(input_ids=torch.tensor([ids])).logits[0, 0] - model.config.reward_shift
"""
MEAN_USE = """\
from rlaif_pl import RewardModel

model = RewardModel.from_pretrained(".", frozen=True)  # reads texts as written above
reward = model.score(["What was responded to."], ["A response."])[0]
"""


POLICY = f"A policy trained with {FROM}."
ADAPTER = f"LoRA adapters of a policy trained with {FROM}; they need their base model."
REWARD = (
    f"A reward model trained with {FROM}. One number a response, in nats, read {{}}; "
    "differences between responses to one prompt mean something, the zero does not."
)
EOS, MEAN = map(REWARD.format, ("at EOS, which must follow the response", "from the mean state"))
Kind = Literal["policy", "adapter", "eos", "mean"]  # a reward model's is its pooling
# Title, library_name and pipeline_tag of the hub, what it is, code.
CARDS = {
    "policy": ("A policy", "transformers", "text-generation", POLICY, POLICY_USE),
    "adapter": ("A policy's adapters", "peft", "text-generation", ADAPTER, ADAPTER_USE),
    "eos": ("A reward model", "transformers", "text-classification", EOS, EOS_USE),
    "mean": ("A reward model", "transformers", "text-classification", MEAN, MEAN_USE),
}


@dataclass(frozen=True, slots=True)
class TextFormat:
    """What a model was trained to read."""

    template: Template  # how prompts and responses are written
    max_response_tokens: int | None = None  # where a reward model cuts responses (EOS included)

    def save(self, folder: Path) -> None:
        """Write it beside a model's weights."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def stored_format(name: str, revision: str | None = None) -> TextFormat | None:
    """Return what is kept beside the weights of a folder, of adapters or their base, or hub model."""
    if name in (EMBEDDED, ""):
        return None
    path = Path(name) / FILE
    if path.is_file():
        return _read(path)
    if Path(name).exists():
        source = adapter_source(name)
        return None if source is None else stored_format(source.base, source.revision)
    if Path(name).is_absolute() or name.count("/") > 1:
        return None  # no name that the hub could know
    try:
        found = cached_file(name, FILE, revision=revision)
    except OSError:  # no such file, or no way to the hub, of which the weights will tell
        return None
    return None if found is None else _read(Path(found))


def format_of(
    name: str,
    revision: str | None = None,
    *,
    template: Template | None = None,
    max_response_tokens: int | None = None,
) -> TextFormat:
    """Return how a model is to read its texts: as given, as it was trained, or by the default.

    A warning says, once for each model, where what is given is not what it was trained with, and where
    the default template is taken. ``name`` is its folder or hub name; empty where it has none.
    ``TypeError``: ``template`` is none.
    """
    if not isinstance(template, Template | None):
        raise TypeError(
            f"expected template as a Template, got {template!r}; write Template({template!r}), or "
            "Template(chat=True) for the tokenizer's chat template"
        )
    stored = stored_format(name, revision)
    if stored is None and template is None:
        warnings.warn(
            f"{name or 'a model in memory'} comes with no template and is given none, so prompts are "
            f"written as for TL;DR: {TLDR!r}; say template: chat for the tokenizer's chat template, "
            "{prompt: '{prompt}'} for prompts as they are, or a layout of your own",
            stacklevel=1,  # one place, so that it is said once
        )
    if stored is None:
        return TextFormat(template or Template(), max_response_tokens)
    given = {"template": template, "max_response_tokens": max_response_tokens}
    for key, value in given.items():
        own = getattr(stored, key)
        if None not in (value, own) and value != own:
            warnings.warn(
                f"{name} was trained with {key} {own} and is now given {value}, so that it reads texts "
                f"otherwise than in training; leave {key} out to take its own",
                stacklevel=1,  # one place, so that it is said once
            )
    limit = stored.max_response_tokens if max_response_tokens is None else max_response_tokens
    return TextFormat(template or stored.template, limit)


def _read(path: Path) -> TextFormat:
    """Read a file that ``TextFormat.save`` wrote; keys of a later version are left alone."""
    try:
        written = parse_json(path.read_text(encoding="utf-8"))
        template, limit = written["template"], written.get("max_response_tokens")
        known = {key: template[key] for key in Template.__dataclass_fields__ if key in template}
        if limit is not None and (type(limit) is not int or limit < 2):
            raise ValueError(f"max_response_tokens is {limit!r}")
        return TextFormat(Template(**known), limit)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"expected {path} to say how the model reads its texts, got something else ({error}); "
            "export the model again, or delete the file and give template"
        ) from error


def model_card(kind: Kind, base: str, template: Template, ends: Sequence[str] = ()) -> str:
    """Write a model's README.md; ``ends`` are the tokens that end a policy's texts."""
    title, library, task, about, use = CARDS[kind]
    if ends:
        named = ", ".join(f"`{token}`" for token in ends)
        about += f" A text ends at {named} (generation_config.json)."
    known: dict[str, object] = {"library_name": library, "pipeline_tag": task}
    if Path(base).is_absolute():
        base = "/".join(Path(base).parts[-2:])  # the rest is about this machine
    elif base.count("/") == 1 and not Path(base).exists():
        known["base_model"] = base  # the hub refuses a card that names a folder there
    known["tags"] = ["rlaif", "ai-feedback"]
    words = template.max_prompt_words
    cut = "" if words is None else f" Prompts of more than {words} words were cut there."
    said = "What was responded to." if "reward" in title else "What the policy is to respond to."
    layout = f"    prompt:   {template.prompt!r}\n    response: {template.response!r}"
    if template.chat:
        system = "" if template.system is None else f"    system:   {template.system!r}\n"
        by = "By the tokenizer's chat template, in which a user says `prompt`:"
        layout = f"{by}\n\n{system}{layout}"
    code = use.format(asked=_asked(template, said), response=template.response)
    parts = [
        "---\n" + yaml.safe_dump(known, sort_keys=False) + "---",
        f"# {title}",
        f"{about} Trained from `{base}`.",
        "## How a text is read",
        "White space counts: a prompt written otherwise than in training gets other answers." + cut,
        layout,
        f"## Use\n\n```python\n{code}```",
        "Config, metrics and versions of the run lie beside this folder where it was made "
        "(`resolved_config.yaml`, `metrics.json`, `run_facts.json`). No license is declared: the base "
        "model's and the data's apply.",
    ]
    return "\n\n".join(parts) + "\n"


def _asked(template: Template, said: str) -> str:
    """Write the code that makes tokens of a prompt."""
    if not template.chat:
        return ASKED.format(prompt=template.prompt, said=said)
    asked = template.prompt.replace("{prompt}", said)
    messages = [{"role": "user", "content": asked}]
    if template.system is not None:
        messages.insert(0, {"role": "system", "content": template.system})
    options = {**NO_THOUGHTS, **(template.chat_template_kwargs or {})}
    return CHAT_ASKED.format(messages=messages, options=options)
