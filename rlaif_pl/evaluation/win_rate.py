"""Win rate of one system over another on the same prompts, with what may explain it beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rlaif_pl.data.failures import causes
from rlaif_pl.evaluation.pairs import Array, Pairs, comparison_key, side
from rlaif_pl.labeling.usage.projection import counted_replies
from rlaif_pl.statistics import Estimator, Interval, flat_metrics, length_controlled_win_rate
from rlaif_pl.text import copied_ngrams, strip_surplus_symbols, word_count
from rlaif_pl.types import Labeler, PointwiseLabeler, Preference

Texts = Sequence[Sequence[str]]  # responses to each prompt
Scores = dict[tuple[str, str], float]  # by prompt and response


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
    length_controlled: Interval  # predicted share at equal length in characters
    a: TextMeasures  # of A's responses
    b: TextMeasures  # of B's
    length_ratio: float  # mean words of A over mean words of B; NaN where B has none
    comparisons: int  # behind the rates
    ties: int  # those without a winner, equal texts among them
    prompts_without_verdict: int  # left out because no comparison of theirs was judged
    failures: Mapping[str, int]  # comparisons left out for want of a verdict, by kind
    verdicts: Mapping[str, float] = field(default_factory=dict)  # wins by key, where they are kept

    def to_metrics(self, name: str, prefix: str = "winrate") -> dict[str, float]:
        """Return flat numbers ``winrate/<name>``, ``_low``, ``_high`` and so on."""
        names = ("length_controlled", "comparisons", "ties", "length_ratio")
        values = {name: self.raw} | {f"{name}_{each}": getattr(self, each) for each in names}
        counts = {f"{name}_n": self.raw.n, f"{name}_failures": sum(self.failures.values())}
        return flat_metrics(prefix, values | counts)


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
    a: Texts,
    b: Texts,
    judge: Labeler,
    groups: Sequence[str] | None = None,
    *,
    estimator: Estimator = Estimator(),
    scores: Scores | None = None,
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
        scores: What a pointwise judge has scored before, by prompt and response; new ones are added.

    Raises:
        ValueError: Lengths differ, a prompt lacks responses, or no comparison could be judged.
    """
    members = _checked(prompts, a, b, groups)
    clean_a, clean_b = ([[strip_surplus_symbols(t) for t in texts] for texts in x] for x in (a, b))
    judged = _judge_all(prompts, clean_a, clean_b, members, judge, {} if scores is None else scores)
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
    """Make a win rate of verdicts, a model's or people's; a comparison may have several.

    ``groups`` are of all prompts, with or without a verdict; ``measures`` of A's and B's responses.
    """
    prompts, owner = np.unique(judged.prompt, return_inverse=True)
    shares = np.bincount(owner, judged.wins) / np.bincount(owner)
    rows = [groups[i] for i in judged.prompt]
    a, b = measures
    lengths = judged.wins, judged.chars_a, judged.chars_b
    return WinRate(
        judge=judge,
        raw=estimator.share(shares, [groups[i] for i in prompts]),
        length_controlled=length_controlled_win_rate(*lengths, rows, estimator),
        a=a,
        b=b,
        length_ratio=a.words / b.words if b.words else math.nan,
        comparisons=len(judged.wins),
        ties=int((judged.wins == 0.5).sum()),
        prompts_without_verdict=len(groups) - len(prompts),
        failures=judged.failures,
        # people's comparisons have no keys, so none of them is kept here
        verdicts=dict(zip(judged.keys, judged.wins.tolist(), strict=False)),
    )


def text_measures(prompts: Sequence[str], responses: Texts) -> TextMeasures:
    """Measure responses, every prompt with the same weight."""
    words, chars = (means([[of(t) for t in ts] for ts in responses]) for of in (word_count, len))
    copied = copied_shares(prompts, responses)
    return TextMeasures(float(words.mean()), float(chars.mean()), float(copied.mean()))


def means(values: Sequence[Sequence[float]]) -> Array:
    """Mean of each prompt's values, ``(P,)``."""
    return np.array([np.mean(row) for row in values], np.float64)


def copied_shares(prompts: Sequence[str], responses: Texts) -> Array:
    """Mean share of 4-grams copied from the prompt, by prompt, ``(P,)``."""
    pairs = zip(prompts, responses, strict=True)
    return means([[copied_ngrams(text, prompt) for text in texts] for prompt, texts in pairs])


def _checked(prompts: Sequence[str], a: Texts, b: Texts, groups: Sequence[str] | None) -> list[str]:
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
    prompts: Sequence[str], a: Texts, b: Texts, groups: Sequence[str], judge: Labeler, known: Scores
) -> Judged:
    """Judge all comparisons; those without a verdict are counted, not guessed."""
    texts = [(i, x, y) for i in range(len(prompts)) for x in a[i] for y in b[i]]
    pairs = [Preference(prompts[i], x, y, groups[i]) for i, x, y in texts]
    asked = {_key(pair): pair for pair in pairs if pair.first != pair.second}
    with counted_replies(judge, f"judging {len(pairs)} comparisons"):
        if isinstance(judge, PointwiseLabeler):
            judged = _by_score(list(asked.values()), judge, known)
        else:
            judged = _by_label(list(asked.values()), judge)
    verdicts = dict(zip(asked, judged, strict=True))
    outcomes = [verdicts.get(_key(pair), 0.5) for pair in pairs]  # 0.5 for equal texts
    kept = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    return Judged(
        wins=np.array([outcomes[i] for i in kept], np.float64),
        prompt=[texts[i][0] for i in kept],
        chars_a=np.array([len(pairs[i].first) for i in kept], np.float64),
        chars_b=np.array([max(1, len(pairs[i].second)) for i in kept], np.float64),
        failures=dict(Counter(outcome for outcome in outcomes if isinstance(outcome, str))),
        keys=[comparison_key(*_key(pairs[i])) for i in kept],
    )


def _key(pair: Preference) -> tuple[str, str, str]:
    return pair.prompt, pair.first, pair.second


def _by_score(pairs: Pairs, judge: PointwiseLabeler, known: Scores) -> list[float | str]:
    """Share of the win that goes to the first, or why there is no verdict, for each pair."""
    distinct = dict.fromkeys((p.prompt, text) for p in pairs for text in (p.first, p.second))
    new = [key for key in distinct if key not in known]
    if new:
        scores = judge.score([prompt for prompt, _ in new], [text for _, text in new])
        known |= dict(zip(new, scores, strict=True))
    margins = np.array([known[p.prompt, p.first] - known[p.prompt, p.second] for p in pairs])
    return [float(side(m)) if math.isfinite(m) else "no_score" for m in margins]


def _by_label(pairs: Pairs, judge: Labeler) -> list[float | str]:
    labeled = judge.label(pairs)
    if len(labeled) != len(pairs):
        raise ValueError(f"expected {len(pairs)} labels, the judge gave {len(labeled)}")
    return [
        label.provenance.failure or "unlabeled"
        if label.p_first is None
        else float(side(np.array(label.p_first - 0.5)))
        if math.isfinite(label.p_first)
        else "nonfinite"
        for label in labeled
    ]
