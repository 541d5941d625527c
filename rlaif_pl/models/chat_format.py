"""Texts in a tokenizer's chat format: prompts up to the assistant's turn, and what ends that turn.

Chat templates open, close and switch off thoughts in ways of their own; their marks are known here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from rlaif_pl.models.control_tokens import ControlTokens
from rlaif_pl.models.model_info import ModelInfo
from rlaif_pl.text import FilledText, Template, filled, mark_data
from rlaif_pl.types import Conversation

# Opening and closing marks as chat templates and vLLM's reasoning parsers have them.
_MARKS = (
    (r"<\s*(?:seed:)?think(?:ing)?\s*>", r"<\s*/\s*(?:seed:)?think(?:ing)?\s*>"),  # DeepSeek, Qwen
    (r"<\s*(?:thoughts?|reasoning)\s*>", r"<\s*/\s*(?:thoughts?|reasoning)\s*>"),  # EXAONE
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi-VL
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1, OpenThinker
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (
        r"<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>",  # gpt-oss
        r"<\|channel\|>final[^<]*<\|message\|>",
    ),
    (r"(?-i:\Aanalysis(?=[A-Z]))", r"(?-i:assistantfinal(?=\S))"),  # the same without its tokens
)
_OPENING, _CLOSING = ("|".join(part) for part in zip(*_MARKS, strict=True))
MARK = re.compile(f"(?P<opens>{_OPENING})|(?:{_CLOSING})", re.IGNORECASE)
_OPEN_AT_END = re.compile(f"(?P<mark>{_OPENING})\\s*\\Z", re.IGNORECASE)
_HARMONY = "<|start|>assistant"  # gpt-oss: the answer's channel is opened by its own mark
# Templates name the switch differently and leave alone what they do not know.
NO_THOUGHTS = {"enable_thinking": False, "thinking": False}
THOUGHTS = {"enable_thinking": True, "thinking": True}


class Turn(NamedTuple):
    """How the assistant's turn is written after the generation prompt."""

    before: str  # white space before what is said
    after: str  # white space after it
    end: int  # token that ends the turn


def chat_prompt(
    tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str, control: ControlTokens
) -> FilledText:
    """Write a prompt up to where the assistant's turn begins; in what is said, control tokens are text.

    A ``Conversation`` is written turn by turn, any other text, and a lone message of a user, as what a
    user says. ``ValueError``: the chat template refuses these turns, or there is none.
    """
    messages = prompt.messages if isinstance(prompt, Conversation) else ()
    if len(messages) > 1 or (messages and not messages[0].content.startswith(prompt)):
        turns = [(turn.role, control.mark(template.cut(turn.content))) for turn in messages]
    else:
        said = control.mark(template.cut(prompt))
        turns = [("user", template.prompt.replace("{prompt}", said))]
    if template.system is not None and all(role != "system" for role, _ in turns):
        turns.insert(0, ("system", template.system))
    return filled(_open_turn(tokenizer, template, turns))


def assistant_turn(tokenizer: PreTrainedTokenizerBase, template: Template) -> Turn:
    """Return how the assistant's turn is written, as the chat template writes one.

    A chat template that ends no turn leaves that to the tokenizer's EOS. ``ValueError``: there is no
    chat template, it refuses a system prompt or leaves out what is said, or a turn ends in text that is
    no token.
    """
    asked = [("system", template.system)] if template.system is not None else []
    asked.append(("user", mark_data("a")))
    said = mark_data("b")
    begun = _open_turn(tokenizer, template, asked)
    whole = _written(tokenizer, template, [*asked, ("assistant", said)], False)
    if asked[-1][1] not in begun or said not in whole:
        raise leaves_out(tokenizer, "leave template.chat out")
    head, _, tail = whole.partition(said)
    before = head.removeprefix(begun)
    before = "" if before.strip() else before
    ends = ControlTokens(tokenizer, str(tokenizer.chat_template))
    found = ends.pattern.match(tail.lstrip())
    if found is None:
        if tail.strip() or tokenizer.eos_token_id is None:
            raise ValueError(
                f"expected the chat template of {tokenizer.name_or_path!r} to end the assistant's turn "
                f"with a token of the tokenizer, got {tail.strip()[:40]!r}; add that token to it and "
                "to the model, or leave template.chat out"
            )
        return Turn(before, "", int(tokenizer.eos_token_id))
    after = tail[: len(tail) - len(tail.lstrip())]
    return Turn(before, after, ends.tokens[found[0]])


def leaves_out(tokenizer: PreTrainedTokenizerBase, do: str) -> ValueError:
    """Return the refusal of a chat template that reads parts of messages alone, as for images."""
    return ValueError(
        f"expected the chat template of {tokenizer.name_or_path!r} to write what is said, given as "
        f"text, got one that leaves it out; give the tokenizer another, or {do}"
    )


def with_turn_end(
    tokenizer: PreTrainedTokenizerBase, template: Template, info: ModelInfo
) -> tuple[PreTrainedTokenizerBase, ModelInfo]:
    """Return a tokenizer whose EOS ends the assistant's turn, and a model's facts that say so.

    ``ValueError``: the model has no such token; or what ``assistant_turn`` raises.
    """
    end = assistant_turn(tokenizer, template).end
    token = str(tokenizer.convert_ids_to_tokens(end))
    if end >= info.vocab_size:
        raise ValueError(
            f"expected {token!r}, which ends a turn in the chat template of {info.name}, within its "
            f"{info.vocab_size} embeddings, got id {end}; resize the embeddings, or leave "
            "template.chat out"
        )
    if tokenizer.eos_token_id != end:
        tokenizer = copy.deepcopy(tokenizer)  # others may read with it, too
        tokenizer.eos_token = token
    return tokenizer, replace(info, eos_token_id=end, stop_token_ids=info.stop_token_ids | {end})


def _open_turn(
    tokenizer: PreTrainedTokenizerBase, template: Template, turns: Sequence[tuple[str, str]]
) -> str:
    """Write turns and the generation prompt; thoughts that it opens unasked are closed."""
    text = _written(tokenizer, template, turns, True)
    own = template.chat_template_kwargs or {}
    return text if own.keys() & NO_THOUGHTS.keys() else close_thought(text)


def _written(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    turns: Sequence[tuple[str, str]],
    is_open: bool,
) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"expected a chat template in the tokenizer of {tokenizer.name_or_path!r} for "
            "template.chat: true, found none; take the model's instruct version, or write the layout "
            "as template.prompt"
        )
    messages = [{"role": role, "content": content} for role, content in turns]
    own = template.chat_template_kwargs or {}
    try:
        return _laid_out(tokenizer, messages, {**NO_THOUGHTS, **own}, is_open)
    except jinja2.TemplateError as error:
        roles = ", ".join(role for role, _ in turns)
        raise ValueError(
            f"expected turns that the chat template of {tokenizer.name_or_path!r} takes, got {roles}: "
            f"{error}; change the rows, or leave out template.system where it knows no such role"
        ) from error


def _laid_out(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    options: Mapping[str, Any],
    is_open: bool = True,
) -> str:
    laid_out = tokenizer.apply_chat_template(  # options that name one of these are refused
        list(messages), tokenize=False, add_generation_prompt=is_open, **options
    )
    return str(laid_out)


def marks_of(chat_template: str) -> tuple[str, str] | None:
    """Return the marks that open and close thoughts in a chat template; None where it has none."""
    found = re.search(_OPENING, chat_template, re.IGNORECASE)
    return None if found is None else (found[0], _closing_of(found[0]))


def thinking_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Lay out messages up to where thoughts begin. ``ValueError``: the chat template knows none."""
    marks = marks_of(str(tokenizer.chat_template or ""))
    if marks is None:
        raise ValueError(
            f"expected a model that thinks, got {tokenizer.name_or_path!r}, whose chat template has no "
            "marks of thoughts (<think>); leave thinking out, or take cot: true for a rationale"
        )
    text = _laid_out(tokenizer, messages, THOUGHTS)
    return text if _OPEN_AT_END.search(text) else f"{text}{marks[0]}\n"


def answer_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Lay out messages up to an answer: thoughts switched off, or closed where they are opened."""
    return close_thought(_laid_out(tokenizer, messages, NO_THOUGHTS))


def close_thought(prompt: str) -> str:
    """Close thoughts that the end of a prompt opens, as Qwen's templates close empty ones."""
    if prompt.endswith(_HARMONY):
        return prompt + "<|channel|>final<|message|>"
    found = _OPEN_AT_END.search(prompt)
    if found is None:
        return prompt
    return f"{prompt.rstrip()}\n\n{_closing_of(found['mark'])}\n\n"


def closing_of(prompt: str) -> str:
    """Return the mark that closes the thoughts a prompt opens. ``ValueError``: it opens none."""
    found = _OPEN_AT_END.search(prompt)
    if found is None:
        raise ValueError(f"expected a prompt that opens thoughts, got ...{prompt[-40:]!r}")
    return _closing_of(found["mark"])


def _closing_of(mark: str) -> str:
    """Return the mark that closes thoughts opened by another."""
    if mark.startswith("<|channel|>"):
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    if mark.startswith("<|channel>"):
        return "<channel|>"
    for assistant_prefix, closing in (("begin_of", "end_of"), ("START_", "END_")):
        mark = mark.replace(assistant_prefix, closing)
    return mark if "end_of" in mark or "END_" in mark else f"{mark[0]}/{mark[1:]}"
