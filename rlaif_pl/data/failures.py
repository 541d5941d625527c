"""Kinds of failures: which may pass by themselves, and which would come back the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

TRANSIENT = ("timeout", "connection", "malformed_reply", "no_logprobs")
_SERVER = re.compile(r"http_(5\d\d|429|408|409)")


def causes(failures: Mapping[str, int]) -> str:
    """Return failures in words, the most frequent first: ``malformed 12, timeout 3``."""
    order = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {count}" for kind, count in order)


def advice(failures: Mapping[str, int]) -> str:
    """Say what to do where all items of a job failed, by the most frequent failure."""
    kind = max(sorted(failures), key=lambda name: failures[name], default="")
    if is_asked_again(kind):
        return "See to the server, then give the same command again: it asks for these anew"
    return {
        "too_long": "Take shorter texts, or let the model or its server read longer ones",
        "unclosed_thought": "Raise the limit of thoughts or answers, or switch thoughts off",
        "split_option": "Set chat_assistant_prefix: assistant, or take options of one token",
    }.get(kind, "Try another labeler or prompt")


def is_transient(failure: str | None) -> bool:
    """Tell whether asking again on another day may help: not of what was said about the question."""
    return failure is not None and (failure in TRANSIENT or bool(_SERVER.fullmatch(failure)))


def is_of_server(failure: str | None) -> bool:
    """Tell whether the server was not there, timed out or reported an error of its own."""
    return failure in ("timeout", "connection") or (failure or "").startswith("http_5")


def is_asked_again(failure: str | None) -> bool:
    """Tell whether the next run asks again without being told to.

    So it does also what a server refused (``http_400``, ...), which cost nothing.
    """
    return is_transient(failure) or (failure or "").startswith("http_4")
