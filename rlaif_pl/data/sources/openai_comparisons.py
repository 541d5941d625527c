"""Human comparisons of summaries as published with arXiv 2009.01325 (JSON lines).

One row is one worker's choice between two summaries of a post. The same pair comes back from
several workers; here it becomes one preference whose ``p_first`` is the share of votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences
from rlaif_pl.data.records import group_of
from rlaif_pl.text import shown, titled
from rlaif_pl.types import Preference, Provenance


class _Vote(NamedTuple):
    """One worker's choice."""

    prompt: str
    first: str
    second: str
    group: str
    policies: dict[str, str | None]
    better: str
    worker: str | None
    confidence: int | None


def read_comparisons(
    rows: Iterable[RawRow], confidence: Collection[int] | None = None, *, with_title: bool = False
) -> LoadedPreferences:
    """Collapse rows to one preference a pair, in order of first appearance.

    All pairs are in memory until the last row is read: it may hold a vote on the first. Rows have
    ``info{id, post}``, ``summaries[2]{text, policy}``, ``choice``, ``worker`` and
    ``extra{confidence}``; id, policy, worker and confidence may be missing. Only votes with a
    ``confidence`` count, or all where it is None; ``with_title`` puts ``info.subreddit`` and
    ``info.title`` before the post.
    """
    votes: dict[tuple[str, frozenset[str]], list[_Vote]] = {}
    dropped: Counter[str] = Counter()
    for row in rows:
        info = row.fields.get("info")
        if isinstance(info, dict) and info.get("article") and not info.get("post"):
            dropped["news article (CNN/DM), not a post"] += 1
            continue
        vote = _vote(row, with_title)
        if confidence is not None and vote.confidence not in confidence:
            dropped["other confidence"] += 1
            continue
        if vote.first == vote.second:
            dropped["identical responses"] += 1
            continue
        same = votes.setdefault((vote.group, frozenset((vote.first, vote.second))), [])
        if same:
            dropped["further vote on the same pair"] += 1
        same.append(vote._replace(prompt="") if same else vote)  # one copy of a text is enough
    return LoadedPreferences(DiskRows(map(_preference, votes.values())), dict(dropped))


def _vote(row: RawRow, with_title: bool) -> _Vote:
    info = _part(row, "info", dict)
    summaries = _part(row, "summaries", list)
    choice = _whole(row.fields.get("choice"))
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise ValueError(f"{row.where}: expected two 'summaries' with text, got {len(summaries)}")
    if choice not in (0, 1):
        got = shown(row.fields.get("choice"))
        raise ValueError(f"{row.where}: expected 'choice' to be 0 or 1, got {got}; fix the row")
    post = prompt = _text(row, "info.post", info.get("post"))
    if with_title:
        names = (_text(row, f"info.{key}", info.get(key)) for key in ("title", "subreddit"))
        prompt = titled(post, *names)
    first, second = (
        _text(row, f"summaries[{n}].text", summary.get("text"))
        for n, summary in enumerate(summaries)
    )
    extra = row.fields.get("extra")
    confidence = _whole(extra.get("confidence")) if isinstance(extra, dict) else None
    worker = row.fields.get("worker")
    return _Vote(
        prompt=prompt,
        first=first,
        second=second,
        group=str(info.get("id") or group_of(post)),
        policies={first: summaries[0].get("policy"), second: summaries[1].get("policy")},
        better=second if choice else first,
        worker=worker if isinstance(worker, str) else None,
        confidence=confidence,
    )


def _preference(votes: list[_Vote]) -> Preference:
    """Turn votes on a pair into a soft label."""
    vote, alone = votes[0], len(votes) == 1
    return Preference(
        prompt=vote.prompt,
        first=vote.first,
        second=vote.second,
        group=vote.group,
        p_first=sum(each.better == vote.first for each in votes) / len(votes),
        source="human",
        provenance=Provenance(
            first_policy=vote.policies[vote.first],
            second_policy=vote.policies[vote.second],
            labeler=vote.worker if alone else f"{len(votes)} workers",
            strategy="human",
            confidence=vote.confidence if alone else None,
        ),
    )


def _whole(value: object) -> int | None:
    """Return a whole number, also one that a table with gaps holds as ``1.0``; None for others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _part(row: RawRow, name: str, kind: type[Any]) -> Any:
    value = row.fields.get(name)
    if not isinstance(value, kind):
        raise ValueError(
            f"{row.where}: expected {name!r} to be {kind.__name__}, got {shown(value)}; is "
            "this an OpenAI comparisons file?"
        )
    return value


def _text(row: RawRow, name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{row.where}: expected {name!r} to be some text, got {shown(value)}; fix it"
        )
    return value.strip()
