"""Text to tokens: prompts as shared prefixes, responses as continuations."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rlaif_pl.models.chat_format import Turn, assistant_turn, chat_prompt
from rlaif_pl.models.control_tokens import ControlTokens, added_around
from rlaif_pl.text import FilledText, Template


class Encoding(NamedTuple):
    """How a model reads prompts and responses, in which control tokens that data spells are text."""

    tokenizer: PreTrainedTokenizerBase  # tokenizer of the model
    template: Template  # how they are written; its control tokens are those of a row
    stop_token_ids: Collection[int] = ()  # end a text, and are control tokens too

    @property
    def control(self) -> ControlTokens:
        """Control tokens: special ones, the template's, and those that end a text."""
        written = f"{self.template.prompt}\0{self.template.response}"
        if self.template.chat:
            written += f"\0{self.tokenizer.chat_template}"
        return ControlTokens(self.tokenizer, written, self.stop_token_ids)

    @property
    def turn(self) -> Turn:
        """What stands around a response."""
        if self.template.chat:
            return assistant_turn(self.tokenizer, self.template)
        return Turn("", "", int(self.tokenizer.eos_token_id))  # type: ignore[arg-type]

    def continuations(self, responses: Sequence[str]) -> list[FilledText]:
        """Return responses as they follow their prompt, without the token that ends them."""
        before, after, _ = self.turn
        written = map(self.template.continuation, responses)
        return [FilledText(before) + text + after for text in written]

    def written(self, prompt: str, control: ControlTokens) -> FilledText:
        """Return a prompt as the model reads it; see ``chat_prompt`` for what a chat template adds."""
        if self.template.chat:
            return chat_prompt(self.tokenizer, self.template, prompt, control)
        return self.template.render(prompt)

    def bare(self, prompt: str) -> FilledText:
        """Return a prompt as the model reads it, without what the tokenizer puts before any text."""
        text = self.written(prompt, self.control)
        own = str(self.tokenizer.decode(added_around(self.tokenizer)[0]))
        if not (self.template.chat and own and text.startswith(own)):
            return text
        size = len(own)
        return FilledText(text[size:], tuple((a - size, b - size) for a, b in text.data))

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Render prompts by the template and tokenize them; each has at least one token."""
        control = self.control
        prompts = [self.written(text, control) for text in texts]
        if self.template.chat:  # which writes itself what the tokenizer puts before a text
            rows = control.tokenize(prompts, special=False)
        else:
            rows = tokenize_open(control, prompts)
        if any(len(row) == 0 for row in rows):
            raise ValueError("expected every prompt to have at least one token, got an empty one")
        return rows

    def responses(
        self, texts: Sequence[str], max_tokens: int | None = None, *, close_cut: bool = True
    ) -> list[list[int]]:
        """Tokenize responses as they follow the prompt, closed by EOS (of a chat, the end of the turn).

        One longer than ``max_tokens`` (EOS included) loses its tail. With ``close_cut`` it keeps the
        EOS, because a reward is read there; without, it stays open, because it does not end there.
        """
        end = self.turn.end
        rows = self.control.tokenize(self.continuations(texts), special=False)
        if max_tokens is None or close_cut:
            room = None if max_tokens is None else max_tokens - 1
            return [[*row[:room], end] for row in rows]
        return [[*row, end][:max_tokens] for row in rows]

    def tells_apart(
        self,
        pairs: Sequence[tuple[str, str]],
        max_tokens: int | None = None,
        *,
        close_cut: bool = True,
    ) -> list[bool]:
        """Whether what is read of two responses differs; one answer a pair.

        Cut responses may be equal, or differ in white space that no token keeps.
        """
        flat = [text for pair in pairs for text in pair]
        rows = self.responses(flat, max_tokens, close_cut=close_cut)
        return [one != other for one, other in zip(rows[::2], rows[1::2], strict=True)]


def tokenize_open(control: ControlTokens, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts that go on: with what the tokenizer puts before one, without an EOS after it.

    Some tokenizers (Llama's with ``add_eos_token``) close every text; a model that reads EOS there
    takes what follows for another document.
    """
    rows = control.tokenize(texts, special=True)
    eos = control.tokenizer.eos_token_id
    if eos is None or all(row[-1:] != [eos] for row in rows):
        return rows
    _, after = added_around(control.tokenizer)
    return [row[:-1] if after[-1:] == row[-1:] == [eos] else row for row in rows]


def warn_of_doubled(tokenizer: PreTrainedTokenizerBase, template: Template, name: str) -> None:
    """Warn of a template that writes what every text gets anyway: BOS at its start, EOS at its end."""
    if template.chat:  # which says itself what stands around a text
        return
    begins, ends = str(tokenizer.decode(added_around(tokenizer)[0])), str(tokenizer.eos_token)
    written = {
        "prompt": begins if template.prompt.lstrip().startswith(begins) else "",
        "response": ends if template.response.rstrip().endswith(ends) else "",
    }
    for part, token in written.items():
        if token:
            warnings.warn(
                f"template.{part} has {token!r}, which every text of {name} is given anyway, so that "
                "it stands there twice; leave it out",
                stacklevel=1,  # one place, so that it is said once
            )
