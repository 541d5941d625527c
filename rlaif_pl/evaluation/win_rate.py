"""Win rate of one system over another on the same prompts, with what may explain it beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlaif_pl.data.failures import causes
from rlaif_pl.evaluation.pairs import Array, Verdict, comparison_key, side
from rlaif_pl.labeling.usage.projection import counted_replies
from rlaif_pl.statistics import Estimator, Interval, flat_metrics, length_controlled_win_rate
from rlaif_pl.text import copied_ngrams, strip_surplus_symbols, word_count
from rlaif_pl.types import Labeler, PointwiseLabeler, Preference


class TextMeasures(NamedTuple):
    """Plain measures of a system's responses, as a judge reads them; means over responses."""

    words: float
    chars: float
    copied_4grams: float  # share of word 4-grams that stand in the prompt, in [0, 1]


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often system A's responses were preferred to system B's."""

    judge: str  # fingerprint of the judge
    raw: Interval  # mean over prompts of the share of comparisons A wins; ties count half
    # predicted share at equal length in characters (arXiv 2309.00267, appendix J)
    length_controlled: Interval
    a: TextMeasures  # of A's responses
    b: TextMeasures  # of B's
    length_ratio: float  # mean words of A over mean words of B; NaN where B has none
    comparisons: int  # behind the rates
    ties: int  # those without a winner, equal texts among them
    prompts_without_verdict: int  # left out because no comparison of theirs was judged
    failures: Mapping[str, int]  # comparisons left out for want of a verdict, by kind
    verdicts: Sequence[Verdict] = ()  # each comparison, where they are kept

    def to_metrics(self, name: str, prefix: str = "winrate") -> dict[str, float]:
        """Return flat numbers ``winrate/<name>``, ``_low``, ``_high`` and so on."""
        values: dict[str, Interval | float] = {
            "": self.raw,
            "_length_controlled": self.length_controlled,
            "_n": self.raw.n,
            "_comparisons": self.comparisons,
            "_ties": self.ties,
            "_failures": sum(self.failures.values()),
            "_length_ratio": self.length_ratio,
        }
        return flat_metrics(prefix, {name + ending: value for ending, value in values.items()})


class Judged(NamedTuple):
    """One row a comparison that was judged, and what could not be."""

    wins: Array  # (N,) 1, 0 or 0.5
    prompt: list[int]  # index of the prompt of each row
    chars_a: Array  # (N,)
    chars_b: Array  # (N,), an empty response counted as one character
    failures: dict[str, int]
    keys: list[str]  # ``pairs.comparison_key`` of each row; may be empty


def compare(
    prompts: Sequence[str],
    a: Sequence[Sequence[str]],
    b: Sequence[Sequence[str]],
    judge: Labeler,
    groups: Sequence[str] | None = None,
    *,
    estimator: Estimator = Estimator(),
) -> WinRate:
    """Judge every response of A against every response of B to the same prompt.

    Surplus symbols at the end are removed first. Equal texts tie without being judged. A pointwise
    judge scores each distinct response once; for a pairwise one, both orders are its own business.

    Args:
        prompts: Texts responded to, without template. ``P``
        a: Responses of A, one or more a prompt. ``P`` lists
        b: Responses of B, one or more a prompt, not necessarily as many. ``P`` lists
        judge: Any labeler.
        groups: Identity of each prompt for the bootstrap; None takes each prompt as its own.
        estimator: How intervals are made.

    Raises:
        ValueError: Lengths differ, a prompt lacks responses, or no comparison could be judged.
    """
    members = _checked(prompts, a, b, groups)
    clean_a, clean_b = ([[strip_surplus_symbols(t) for t in texts] for texts in x] for x in (a, b))
    judged = _judge_all(prompts, clean_a, clean_b, members, judge)
    if not len(judged.wins):
        raise ValueError(
            f"the judge gave no verdict on {len(prompts)} prompts: {causes(judged.failures)}. Check "
            f"the judge {judge.fingerprint}"
        )
    measures = text_measures(prompts, clean_a), text_measures(prompts, clean_b)
    return win_rate_of(judge.fingerprint, judged, members, measures, estimator=estimator)


def win_rate_of(
    judge: str,
    judged: Judged,
    groups: Sequence[str],
    measures: tuple[TextMeasures, TextMeasures],
    *,
    estimator: Estimator = Estimator(),
) -> WinRate:
    """Make a win rate of verdicts, a model's or people's.

    Args:
        judge: Who judged.
        judged: At least one verdict; a comparison may have several, by as many people.
        groups: Group of each prompt that responses were judged to, with or without a verdict.
        measures: Of A's and of B's responses.
        estimator: How intervals are made.
    """
    prompts, owner = np.unique(judged.prompt, return_inverse=True)
    shares = np.bincount(owner, judged.wins) / np.bincount(owner)
    rows = [groups[i] for i in judged.prompt]
    a, b = measures
    return WinRate(
        judge=judge,
        raw=estimator.share(shares, [groups[i] for i in prompts]),
        length_controlled=length_controlled_win_rate(
            judged.wins, judged.chars_a, judged.chars_b, rows, estimator
        ),
        a=a,
        b=b,
        length_ratio=a.words / b.words if b.words else math.nan,
        comparisons=len(judged.wins),
        ties=int((judged.wins == 0.5).sum()),
        prompts_without_verdict=len(groups) - len(prompts),
        failures=judged.failures,
        # people's comparisons have no keys, so none of them is kept here
        verdicts=[Verdict(*row) for row in zip(judged.keys, judged.wins.tolist(), strict=False)],
    )


def text_measures(prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> TextMeasures:
    """Measure responses, every prompt with the same weight."""
    words = np.mean([np.mean([word_count(t) for t in texts]) for texts in responses])
    chars = np.mean([np.mean([len(t) for t in texts]) for texts in responses])
    return TextMeasures(float(words), float(chars), float(copied_shares(prompts, responses).mean()))


def copied_shares(prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Array:
    """Mean share of 4-grams copied from the prompt, by prompt, ``(P,)``."""
    pairs = zip(prompts, responses, strict=True)
    return np.array([np.mean([copied_ngrams(t, prompt) for t in texts]) for prompt, texts in pairs])


def _checked(
    prompts: Sequence[str],
    a: Sequence[Sequence[str]],
    b: Sequence[Sequence[str]],
    groups: Sequence[str] | None,
) -> list[str]:
    if not prompts or not len(prompts) == len(a) == len(b):
        raise ValueError(
            f"expected responses of both for each prompt, got {len(prompts)} prompts, "
            f"{len(a)} and {len(b)} lists of responses"
        )
    if not all(a) or not all(b):
        raise ValueError("expected at least one response of both to each prompt, got an empty list")
    members = [str(i) for i in range(len(prompts))] if groups is None else list(groups)
    if len(members) != len(prompts):
        raise ValueError(f"expected a group per prompt, got {len(members)} for {len(prompts)}")
    return members


def _judge_all(
    prompts: Sequence[str],
    a: Sequence[Sequence[str]],
    b: Sequence[Sequence[str]],
    groups: Sequence[str],
    judge: Labeler,
) -> Judged:
    """Judge all comparisons; those without a verdict are counted, not guessed."""
    owner = [i for i in range(len(prompts)) for _ in range(len(a[i]) * len(b[i]))]
    pairs = [
        Preference(prompts[i], x, y, groups[i])
        for i in range(len(prompts))
        for x in a[i]
        for y in b[i]
    ]
    with counted_replies(judge, f"judging {len(pairs)} comparisons"):
        outcomes = _outcomes(pairs, judge)
    kept = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    return Judged(
        wins=np.array([outcomes[i] for i in kept], np.float64),
        prompt=[owner[i] for i in kept],
        chars_a=np.array([len(pairs[i].first) for i in kept], np.float64),
        chars_b=np.array([max(1, len(pairs[i].second)) for i in kept], np.float64),
        failures=dict(Counter(outcome for outcome in outcomes if isinstance(outcome, str))),
        keys=[comparison_key(*_key(pairs[i])) for i in kept],
    )


def _outcomes(pairs: Sequence[Preference], judge: Labeler) -> list[float | str]:
    """Share of the win that goes to the first, or why there is no verdict, for each pair."""
    asked = {_key(pair): pair for pair in pairs if pair.first != pair.second}
    different = list(asked.values())
    if isinstance(judge, PointwiseLabeler):
        judged = _by_score(different, judge)
    else:
        judged = _by_label(different, judge)
    outcomes = dict(zip(asked, judged, strict=True))
    return [outcomes.get(_key(pair), 0.5) for pair in pairs]


def _key(pair: Preference) -> tuple[str, str, str]:
    return pair.prompt, pair.first, pair.second


def _by_score(pairs: Sequence[Preference], judge: PointwiseLabeler) -> list[float | str]:
    distinct = list(dict.fromkeys((p.prompt, t) for p in pairs for t in (p.first, p.second)))
    scores = judge.score([prompt for prompt, _ in distinct], [text for _, text in distinct])
    known = dict(zip(distinct, scores, strict=True))
    margins = np.array([known[p.prompt, p.first] - known[p.prompt, p.second] for p in pairs])
    return [float(side(m)) if math.isfinite(m) else "no_score" for m in margins]


def _by_label(pairs: Sequence[Preference], judge: Labeler) -> list[float | str]:
    labeled = judge.label(pairs)
    if len(labeled) != len(pairs):
        raise ValueError(f"expected {len(pairs)} labels, the judge gave {len(labeled)}")
    return [
        label.provenance.failure or "unlabeled"
        if label.p_first is None
        else float(side(np.array(label.p_first - 0.5)))
        for label in labeled
    ]
