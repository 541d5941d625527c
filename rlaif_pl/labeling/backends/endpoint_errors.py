"""What servers say when they refuse: the sentence, what it means, and what to do about it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

LONGEST_SENTENCE = 300  # characters shown of what a server says
# Words of a refusal, in lower case.
TOO_LONG = (
    "context length", "context window", "context_length", "maximum context",
    "maximum model length", "max_model_len", "too long",
)  # fmt: skip
FILTERED = (
    "content_filter", "content_policy", "content management policy", "usage policy",
    "flagged", "moderation",
)  # fmt: skip
QUOTA = (
    "insufficient_quota", "insufficient credit", "insufficient balance", "credit balance",
    "billing_hard_limit", "payment required",
)  # fmt: skip
# Words of errors that come without a status, and the status that they stand for; the first fits.
_STATUS_WORDS = (
    (402, QUOTA),
    (401, ("invalid_api_key", "authentication", "unauthorized", "api key")),
    (429, ("rate limit", "rate_limit", "ratelimit", "too many requests", "overloaded", "busy")),
    (404, ("model_not_found", "no such model", "unknown model")),
    (400, ("invalid_request", "unsupported", "bad request")),
)
_AFTER_USER = "set chat_assistant_prefix: user in the back end"
_FEWER = "set a smaller server.top_logprobs in the back end, or "
# What to set, by what the sentence names; the first fits. Names are of the back end's init_args.
_HINTS = {
    "max_completion_tokens": "set server: {max_tokens_field: max_completion_tokens} in the back end",
    "temperature": "set server: {supports_temperature: false} in the back end: the server then draws "
    "its way",
    "top_logprobs": f"{_FEWER}let the server report more",
    "logprobs": f"{_FEWER}where the model reports none, take FreeFormLabeler",
    "top_k": "set server: {supports_top_k: false} in the back end",
    "continue_final_message": _AFTER_USER,
    "add_generation_prompt": _AFTER_USER,
    "assistant message": _AFTER_USER,
    "prefill": _AFTER_USER,
    "chat template": "set chat_template: false in the labeler, or give the server a template",
    "chat_template": "leave chat_template_kwargs out of the back end's extra_body",
    "stream": "take a server or route that answers without streaming; streams are not read",
}
_UNKNOWN = "see to the server, or to extra_body in the back end's init_args"
AGAIN = "then give the same command again: answers are kept, what was refused is asked again"
Meaning = Literal["useless", "too_long", "refused", "again", "never"]


class EndpointError(ConnectionError):
    """The server cannot be used at all: every further call would fail in the same way."""


class BodyError(ValueError):
    """A body of status 200 without an answer: ``kind`` is the failure, ``status`` an error's in it."""

    def __init__(self, message: str, kind: str = "malformed_reply", status: int = 0) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


def raise_reported(body: object) -> None:
    """Raise the error in a body; routers put it beside empty choices, or into the first."""
    if not isinstance(body, dict):
        return
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    holder = body if first is None else first
    error = holder.get("error") if isinstance(holder, dict) else None
    if error:
        raise BodyError(sentence_of(json.dumps({"error": error})), status=_status_of(error))


def _status_of(error: object) -> int:
    """HTTP status of an error in a body; 500 where it says nothing that is known."""
    fields = error if isinstance(error, dict) else {}
    for name in ("code", "status", "status_code"):
        value = str(fields.get(name, ""))
        if value.isdecimal() and 400 <= int(value) < 600:
            return int(value)
    words = json.dumps(error).lower()
    return next((code for code, known in _STATUS_WORDS if any(w in words for w in known)), 500)


def sentence_of(text: str) -> str:
    """Return what a server says in the body of an error: JSON of several kinds, HTML, or text."""
    found: Any = text
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        if "<" in text:  # a page of a proxy
            page = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", " ", text)
            found = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for name in ("error", "detail", "message", "msg"):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    said = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    said = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return said[:LONGEST_SENTENCE] or "(nothing said)"


def reason_of(sentence: str) -> str:
    """Return what a server says without its words with digits: by these, gateways number requests."""
    return re.sub(r"\S*\d\S*", "#", sentence)


def meaning_of(status: int, text: str) -> Meaning:
    """Tell what a status of 400 or more means.

    Returns:
        ``useless``: every call would be refused (key, address, model, credit). ``too_long`` and
        ``refused``: said about the question. ``again``: may pass. ``never``: this request is refused.
    """
    words = text.lower()
    if status in (400, 403, 422) and any(word in words for word in FILTERED):
        return "refused"
    if status in (401, 402, 403, 404) or any(word in words for word in QUOTA):
        return "useless"
    if status == 413 or (status in (400, 422) and any(word in words for word in TOO_LONG)):
        return "too_long"
    return "again" if status in (408, 409, 429) or status >= 500 else "never"


def useless(url: str, status: int, sentence: str, api_key_env: str, model: str) -> str:
    """Say that a server refuses every call, and what to do."""
    what = f"answers for no more money: see to the account of the key in {api_key_env}"
    if status == 404:
        what = f"has no such model or route: set model (now {model!r}), base_url or api"
    elif status in (401, 403):
        what = f"does not accept the key: put a valid one into {api_key_env} (api_key_env)"
    return f"{url} {what}, {AGAIN}. It says (HTTP {status}): {sentence}"


def refuses_all(url: str, status: int, sentence: str) -> str:
    """Say that a server refuses every request for one reason, and what to set."""
    words = sentence.lower()
    hint = next((hint for word, hint in _HINTS.items() if word in words), _UNKNOWN)
    return f"{url} refuses every request (HTTP {status}): {sentence}\nTo go on, {hint}; {AGAIN}"


def silent(url: str, reason: str, failed: int, is_reached: bool) -> str:
    """Say that a server was never reached, or failed so many calls in a row, and what to do."""
    if not is_reached:
        return (
            f"Cannot reach {url} ({reason}). Start the server there, or set base_url to its address "
            f"or a longer timeout, {AGAIN}"
        )
    see = "See to the server"
    if any(word in reason.lower() for word in ("connect", "enginecore", "cpu generator")):
        see = (
            "It may have ended: look into its log and start it anew (a seed ends a vLLM server on a "
            "CPU that prefills in chunks: set server: {supports_seed: false} in the back end, or "
            "start it with --no-enable-chunked-prefill)"
        )
    return (
        f"{url} failed to answer {failed} calls in a row, each after all its repetitions (the last: "
        f"{reason}). {see}, {AGAIN}"
    )


def split_option(url: str, options: Sequence[str], token: str, failure: str) -> str:
    """Say that options are not told apart by the first token of an answer, and what to set."""
    return (
        f"{url} was to answer {' or '.join(map(repr, options))} and reports {token!r}, after which it "
        f"cannot be asked how an option goes on: such answers become no labels ({failure}). "
        "Set chat_assistant_prefix: assistant in the back end where the server goes on with a begun "
        "answer, or a prompt file of your own whose options are one token each"
    )


def without_field(url: str, name: str, sentence: str) -> str:
    """Say that a server does not take an optional field, and what becomes of it."""
    effect = {
        "seed": "texts are then drawn anew by every run that has to ask again",
        "logprob_token_ids": "verdicts are read off the likeliest tokens",
        "thinking_token_budget": "thoughts are cut where the budget ends, and then are a failure; "
        "vLLM takes it where it was started with a reasoning parser",
    }.get(name, "the server's own setting holds, which may come from the model's folder")
    return f"{url} does not take {name} ({sentence}): it is left out from now on; {effect}"
