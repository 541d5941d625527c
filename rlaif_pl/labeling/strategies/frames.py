"""How a response follows its prompt where its own likelihood is asked for: as the policy writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import Backend
from rlaif_pl.models.encoding import Encoding
from rlaif_pl.models.text_format import stored_format
from rlaif_pl.text import FilledText, Template, filled, mark_data

ALONE = "TL;DR:"


class Frame(NamedTuple):
    """Texts around a response."""

    version: str  # end of the names of terms that use it; empty for the default
    given: Callable[[str], str]  # what stands before a response to a prompt
    alone: Callable[[], str]  # the same without any prompt
    target: Callable[[str], str]  # the response as it follows either, without white space around it

    def begun(self, response: str) -> str:
        """Return what stands before the rest of a response that was begun."""
        return self.alone() + filled(mark_data(response))


DEFAULT = Frame(
    "",
    lambda prompt: Template().prompt.replace("{prompt}", prompt),
    lambda: ALONE,
    lambda response: f" {response}",
)


def frame_of(
    backend: Backend, template: Template | None, max_prompt_words: int | None = None
) -> Frame:
    """Return the frame of a template; of None, what the back end's model was trained with.

    Args:
        backend: Who reads it; for a chat template a model on this machine.
        template: How texts are written; None takes what the folder of a ``LocalBackend``'s model says,
            and TL;DR's frame where none does.
        max_prompt_words: Where prompts are cut, in place of the template's own limit.

    Raises:
        ValueError: A chat template is given for a server; or the model has none.
    """
    if template is None and isinstance(backend, LocalBackend):
        options = backend.model.options
        stored = stored_format(options.name, options.revision)
        template = None if stored is None else stored.template
    if template in (None, Template()):
        return DEFAULT
    assert template is not None
    facts = json.dumps(dataclasses.asdict(template), sort_keys=True)
    version = f"-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    if max_prompt_words is not None:
        template = dataclasses.replace(template, max_prompt_words=max_prompt_words)
    if template.chat:
        return _chat_frame(backend, template, version)
    alone = (
        template.prompt.partition("{prompt}")[2].lstrip() or "\n"
    )  # some text has to be before it
    return Frame(version, template.render, lambda: FilledText(alone), template.continuation)


def _chat_frame(backend: Backend, template: Template, version: str) -> Frame:
    if not isinstance(backend, LocalBackend):
        raise ValueError(
            "expected a model on this machine (LocalBackend) for policy_template.chat: true, got "
            f"{type(backend).__name__}, whose tokenizer is not known here; give the layout as "
            "policy_template.prompt"
        )
    model = backend.model

    def encoding() -> Encoding:  # loads the model
        return Encoding(model.tokenizer, template, model.info.stop_token_ids)

    return Frame(
        version,
        lambda prompt: encoding().bare(prompt),
        lambda: encoding().bare(""),
        lambda response: encoding().continuations([response])[0],
    )
