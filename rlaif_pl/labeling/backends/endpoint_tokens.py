"""Exactly the verdicts' tokens: ids from the server's tokenizer, log-probabilities by id.

Of the likeliest 20 tokens a verdict is missing now and then. vLLM reports the tokens that it is asked
for (``logprob_token_ids``); other servers ignore the field, so what comes back is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlaif_pl.labeling.backends.endpoint_errors import Table

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_IDS = 128  # vLLM's own limit
TRIES = 3  # requests that a server may leave unanswered before its tokenizer is given up
SECONDS = 30.0  # longest wait for a tokenizer


class VerdictTokens:
    """Looks up which token comes next where an answer is one of a few strings."""

    def __init__(self, model: str, is_known: bool | None = None) -> None:
        self.model = model
        self.is_known = is_known is not False
        self._left = TRIES
        self._tokens: dict[str, tuple[int, ...]] = {}

    async def after(
        self, client: AsyncOpenAI, start: str, options: Sequence[str]
    ) -> tuple[int, ...] | None:
        """Return the tokens that options begin with behind a text; None where that is not known."""
        ids: dict[int, None] = {}
        if not self.is_known or not options:
            return None
        before = await self._tokenize(client, start) if start else ()
        for option in options:
            whole = None if before is None else await self._tokenize(client, start + option)
            if before is None or whole is None or whole[: len(before)] != before:
                return None  # the option's first token would hold the end of the text
            ids[whole[len(before)]] = None
        return tuple(ids) if len(ids) <= MOST_IDS else None

    def check(self, table: Table, ids: Sequence[int], options: Sequence[str]) -> bool:
        """Tell whether a table holds the tokens that were asked for; if not, none is asked again."""
        found = {token for token, _ in table if token and any(o.startswith(token) for o in options)}
        self.is_known = len(found) >= len(ids)
        return self.is_known

    async def _tokenize(self, client: AsyncOpenAI, text: str) -> tuple[int, ...] | None:
        """Ask the server's tokenizer, once a text."""
        if text in self._tokens:
            return self._tokens[text]
        url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/tokenize"
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        try:
            found: Any = await client.post(
                url, cast_to=object, body=body, options={"timeout": SECONDS}
            )
            tokens = tuple(int(token) for token in found["tokens"])
        except Exception:  # noqa: BLE001 - whatever it is, the likeliest tokens do without
            self._left -= 1
            self.is_known = self._left > 0
            return None
        if not tokens:
            self.is_known = False
            return None
        self._tokens[text] = tokens
        return tokens
