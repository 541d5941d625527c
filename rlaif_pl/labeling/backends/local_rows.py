"""Calls as token rows, for a model on this machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rlaif_pl.labeling.calls import ChoiceRequest, LoglikelihoodRequest, Question
from rlaif_pl.models.chat_format import answer_prompt, closing_of, leaves_out, thinking_prompt
from rlaif_pl.models.control_tokens import ControlTokens
from rlaif_pl.models.encoding import tokenize_open
from rlaif_pl.text import FilledText, filled

LOWEST = -745.0  # nats; smallest positive float64, what a probability of 0 is reported as


class Row(NamedTuple):
    """Tokens to be read, some of which are to be judged."""

    ids: tuple[int, ...]  # all of them; of an encoder-decoder, what its decoder reads
    first: int  # tokens from here on are judged, each by those before it; at least 1
    source: tuple[int, ...] = ()  # what the encoder of an encoder-decoder reads

    @property
    def size(self) -> int:
        """Tokens that are read."""
        return len(self.ids) + len(self.source)


class UnreadableError(Exception):
    """A call that this model cannot answer; the message is the reply's ``failure``."""


@dataclass(eq=False)
class Encoder:
    """Turns calls into rows."""

    tokenizer: PreTrainedTokenizerBase
    limit: int  # longest row in tokens, answers included
    decoder_start: int | None = None  # first token of an encoder-decoder's decoder
    stop_token_ids: Collection[int] = ()  # data cannot spell them, nor other control tokens

    def __post_init__(self) -> None:
        template = str(self.tokenizer.chat_template or "")
        self.control = ControlTokens(self.tokenizer, template, self.stop_token_ids)

    def rows(self, call: ChoiceRequest | LoglikelihoodRequest) -> list[Row]:
        """Return the rows to be judged. ``UnreadableError``: the text is too long or there is none."""
        return self._choose(call) if isinstance(call, ChoiceRequest) else [self._score(call)]

    def _choose(self, call: ChoiceRequest) -> list[Row]:
        # Text and option are tokenized as one string, since after some texts "1" is another token. What
        # all options and the bare question begin with is not judged.
        head, tail, source = self._parts(call.question)
        texts = [tail, *(tail + option for option in call.options)]
        bare, *rows = [head + row for row in self._tokenize(texts, not call.question.chat)]
        first = len(commonprefix([bare, *rows]))
        if not 1 <= first < min(map(len, rows)):
            raise UnreadableError("empty")
        return [self._row(row, first, source) for row in rows]

    def _score(self, call: LoglikelihoodRequest) -> Row:
        (target,) = self._tokenize([call.target], special=False)
        (context,) = self._tokenize([call.context], special=True)
        source: list[int] = []
        if self.decoder_start is not None:
            source, context = context, [self.decoder_start]
        if not context or not target:
            raise UnreadableError("empty")
        return self._row(context + target, len(context), source)

    def question(self, question: Question) -> Row:
        """Return what is read before an answer. ``UnreadableError``: it is too long or empty."""
        head, tail, source = self._parts(question)
        (row,) = self._tokenize([tail], special=not question.chat)
        row = head + row
        if not row:
            raise UnreadableError("empty")
        return self._row(row, len(row), source)

    def thinking(self, question: Question) -> tuple[Row, str]:
        """Return what is read before thoughts are written, and the mark that closes them.

        ``UnreadableError``: too long. ``ValueError``: the model does not think, or has an encoder.
        """
        if self.decoder_start is not None:
            raise ValueError("expected a decoder-only model for thinking, got an encoder-decoder")
        prompt = filled(thinking_prompt(self.tokenizer, self._messages(question.text)))
        (row,) = self._tokenize([prompt], special=False)
        return self._row(row, len(row)), closing_of(prompt)

    def _parts(self, question: Question) -> tuple[list[int], FilledText, list[int]]:
        """Tokens put in front, text of the decoder, and tokens of the encoder."""
        text = self._chat(question) if question.chat else question.text
        if not isinstance(text, FilledText):  # it knows no places of data: all of it is
            text = FilledText(text, ((0, len(text)),))
        if self.decoder_start is None:
            return [], text + question.assistant_prefix, []
        (source,) = self.control.tokenize([text], special=not question.chat)
        return [self.decoder_start], FilledText("") + question.assistant_prefix, source

    def _tokenize(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Tokenize with what belongs before a text, without what belongs after it."""
        if special and self.decoder_start is None:  # else it is for the encoder's text
            return tokenize_open(self.control, texts)
        return self.control.tokenize(texts, special=False)

    def _chat(self, question: Question) -> FilledText:
        """Put a question, all of it data, into the chat format up to where the answer begins."""
        messages = self._messages(question.text)
        if question.thoughts is None:
            return filled(answer_prompt(self.tokenizer, messages))
        begun = thinking_prompt(self.tokenizer, messages)
        space = "" if begun[-1:].isspace() else "\n"
        thought = self.control.mark(question.thoughts.strip())
        return filled(f"{begun}{space}{thought}\n{closing_of(filled(begun))}\n\n")

    def _messages(self, text: str) -> list[dict[str, str]]:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"expected a chat template in the tokenizer of {self.tokenizer.name_or_path!r}, "
                "found none; ask in plain text (chat: false)"
            )
        if not self._writes_text:
            raise leaves_out(self.tokenizer, "ask in plain text (chat: false)")
        return [{"role": "user", "content": self.control.mark(text)}]

    @cached_property
    def _writes_text(self) -> bool:
        said = "What is said"
        return said in answer_prompt(self.tokenizer, [{"role": "user", "content": said}])

    def _row(self, ids: Sequence[int], first: int, source: Sequence[int] = ()) -> Row:
        # with room for a token where none is judged
        if max(len(ids) + (first == len(ids)), len(source)) > self.limit:
            raise UnreadableError("too_long")
        return Row(tuple(ids), first, tuple(source))


def option_logprobs(rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> list[float]:
    """Log-probability of each option without that of longer options it is part of."""
    whole = [math.fsum(row) for row in logprobs]
    if not all(math.isfinite(value) or value == -math.inf for value in whole):
        return [math.nan] * len(rows)
    answers = [row.ids for row in rows]
    result = []
    for place, answer in enumerate(answers):
        longer = [n for n, other in enumerate(answers) if _continues(other, answer)]
        beyond = {n for n in longer for m in longer if _continues(answers[n], answers[m])}
        nearest = [n for n in longer if n not in beyond]
        parts = [math.exp(min(whole[n] - whole[place], 0.0)) for n in nearest if whole[n] > LOWEST]
        rest = 1.0 - math.fsum(parts)
        value = whole[place] + math.log(rest) if rest > 0 else LOWEST
        result.append(max(value, LOWEST))
    return result


def _continues(longer: tuple[int, ...], shorter: tuple[int, ...]) -> bool:
    return len(longer) > len(shorter) and longer[: len(shorter)] == shorter
