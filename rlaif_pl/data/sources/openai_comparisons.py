"""Human comparisons of summaries as published with arXiv 2009.01325: a row is one worker's vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences
from rlaif_pl.data.records import group_of
from rlaif_pl.text import shown, titled
from rlaif_pl.types import Preference, Provenance


def read_comparisons(
    rows: Iterable[RawRow], confidence: Collection[int] | None = None, *, with_title: bool = False
) -> LoadedPreferences:
    """Collapse rows to one preference a pair, in order of first appearance, by shares of votes.

    Rows have ``info{id, post}``, ``summaries[2]{text, policy}``, ``choice``, ``worker`` and
    ``extra{confidence}``; id, policy, worker and confidence may be missing. Only votes with a
    ``confidence`` count, or all where it is None; ``with_title`` puts subreddit and title first.
    """
    votes: dict[tuple[str, frozenset[str]], tuple[Preference, list[bool]]] = {}
    dropped: Counter[str] = Counter()
    for row in rows:
        info = row.fields.get("info")
        if isinstance(info, dict) and info.get("article") and not info.get("post"):
            dropped["news article (CNN/DM), not a post"] += 1
            continue
        vote = _vote(row, with_title)
        if confidence is not None and vote.provenance.confidence not in confidence:
            dropped["other confidence"] += 1
            continue
        if vote.first == vote.second:
            dropped["identical responses"] += 1
            continue
        key = vote.group, frozenset((vote.first, vote.second))
        pair, for_first = votes.setdefault(key, (vote, []))
        if for_first:
            dropped["further vote on the same pair"] += 1
        for_first.append((vote.first == pair.first) == bool(vote.p_first))
    return LoadedPreferences(DiskRows(_pooled(*each) for each in votes.values()), dict(dropped))


def _vote(row: RawRow, with_title: bool) -> Preference:
    """Read one worker's choice."""
    info, summaries = _part(row, "info", dict), _part(row, "summaries", list)
    choice = _whole(row.fields.get("choice"))
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise row.wrong("two 'summaries' with text", str(len(summaries)))
    if choice not in (0, 1):
        raise row.wrong("'choice' to be 0 or 1", shown(row.fields.get("choice")), "fix the row")
    post = prompt = _text(row, "info.post", info.get("post"))
    if with_title:
        names = (_text(row, f"info.{key}", info.get(key)) for key in ("title", "subreddit"))
        prompt = titled(post, *names)
    texts = [each.get("text") for each in summaries]
    first, second = (_text(row, f"summaries[{n}].text", text) for n, text in enumerate(texts))
    extra, worker = row.fields.get("extra"), row.fields.get("worker")
    provenance = Provenance(
        first_policy=summaries[0].get("policy"),
        second_policy=summaries[1].get("policy"),
        labeler=worker if isinstance(worker, str) else None,
        strategy="human",
        confidence=_whole(extra.get("confidence")) if isinstance(extra, dict) else None,
    )
    group = str(info.get("id") or group_of(post))
    p_first = 1.0 - choice
    return Preference(prompt, first, second, group, p_first, source="human", provenance=provenance)


def _pooled(pair: Preference, for_first: list[bool]) -> Preference:
    """Turn the votes on a pair, of which it holds the first, into a soft label."""
    count = len(for_first)
    if count == 1:
        return pair
    provenance = replace(pair.provenance, labeler=f"{count} workers", confidence=None)
    return replace(pair, p_first=sum(for_first) / count, provenance=provenance)


def _whole(value: object) -> int | None:
    """Return a whole number, also one that a table with gaps holds as ``1.0``; None for others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _part(row: RawRow, name: str, kind: type[Any]) -> Any:
    value = row.fields.get(name)
    if not isinstance(value, kind):
        do = "is this an OpenAI comparisons file?"
        raise row.wrong(f"{name!r} to be {kind.__name__}", shown(value), do)
    return value


def _text(row: RawRow, name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise row.wrong(f"{name!r} to be some text", shown(value), "fix it")
    return value.strip()
