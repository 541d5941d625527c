"""Tokenize texts so that control tokens are the template's, and data that spells one is text.

A tokenizer turns "</s>" or "<|im_start|>" into a control token wherever the string stands: in data it
would end a response twice, or open the judge's turn. Other texts have exactly the tokenizer's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from rlaif_pl.text import DATA_BEGIN, DATA_END, FilledText


class ControlTokens:
    """Control tokens of a tokenizer, and where a text spells them.

    Those are all that the tokenizer calls special, those that end a text and, of other tokens that were
    added to the vocabulary, those in the template as it is written (but white space).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "",
        stop_token_ids: Collection[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        special = {*tokenizer.all_special_ids, *stop_token_ids}
        self.added = tokenizer.added_tokens_decoder
        self.tokens = {
            token.content: number
            for number, token in self.added.items()
            if token.content
            and (
                token.special
                or number in special
                or (token.content in template and not token.content.isspace())
            )
        }
        self.ids = frozenset(self.tokens.values())
        names = sorted(self.tokens, key=len, reverse=True)  # the longest wins, as in tokenizers
        begins = "".join(sorted({re.escape(name[0]) for name in names}))
        choice = "|".join(map(re.escape, names))
        self.pattern = re.compile(f"(?=[{begins}])(?:{choice})" if names else "(?!)")

    def mark(self, text: str) -> str:
        """Put marks around every control token that a text spells; see ``text.filled``."""
        bare = text.replace(DATA_BEGIN, "").replace(DATA_END, "")
        return self.pattern.sub(f"{DATA_BEGIN}\\g<0>{DATA_END}", bare)

    def tokenize(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Tokenize texts; of a ``FilledText`` the data is read as text, of any other string all.

        ``special``: with what the tokenizer puts before and after a text.
        """
        if not texts:
            return []
        rows = self.tokenizer(list(map(str, texts)), add_special_tokens=special).input_ids
        for number, text in enumerate(texts):
            has_control = not self.ids.isdisjoint(rows[number])
            if has_control and any(is_data for _, is_data in self._found(text)):
                rows[number] = self._as_text(text, special)
        return list(map(list, rows))

    def _found(self, text: str) -> Iterator[tuple[re.Match[str], bool]]:
        """Yield control tokens in a text with whether data spells them, wholly or in part."""
        data = text.data if isinstance(text, FilledText) else ((0, len(text)),)
        for match in self.pattern.finditer(text):
            yield match, any(begin < match.end() and match.start() < end for begin, end in data)

    def _as_text(self, text: str, special: bool) -> list[int]:
        """Tokenize a text piece by piece between the template's own control tokens."""
        before, after = added_around(self.tokenizer) if special else ([], [])
        ids, place, strips = list(before), 0, False
        for match, is_data in self._found(text):
            if is_data:
                continue
            number = self.tokens[match[0]]
            token, piece = self.added[number], str(text)[place : match.start()]
            ids += [*self._plain(_stripped(piece, strips, token.lstrip)), number]
            place, strips = match.end(), token.rstrip
        return [*ids, *self._plain(_stripped(str(text)[place:], strips, False)), *after]

    def _plain(self, piece: str) -> list[int]:
        """Tokenize a piece without any control token in it."""
        if not piece:
            return []
        ids: list[int] = self.tokenizer(
            piece, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        if self.ids.isdisjoint(ids):
            return list(ids)
        # A token of the vocabulary proper, or one that is not special, is found all the same: break
        # the string that spells it.
        places = [0, *(match.start() + 1 for match in self.pattern.finditer(piece)), len(piece)]
        parts = [piece[begin:end] for begin, end in pairwise(places)]
        rows = self.tokenizer(parts, add_special_tokens=False, split_special_tokens=True).input_ids
        return [token for row in rows for token in row if token not in self.ids]


def added_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after a text."""
    bare = list(tokenizer("a", add_special_tokens=False).input_ids)
    whole = list(tokenizer("a", add_special_tokens=True).input_ids)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _stripped(piece: str, left: bool, right: bool) -> str:
    piece = piece.lstrip() if left else piece
    return piece.rstrip() if right else piece
