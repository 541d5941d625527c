"""What evaluations over pairs share: which rows count, who decided them, who is right or longer.

FOLDER/verdicts.jsonl holds a line a comparison and judge, without texts; ``key`` is ``comparison_key``
of the texts as judged, ``win`` that of ``a``, ``taught`` those that the judge's labels trained::

    {"judge": "labeler", "a": "policy", "b": "sft", "key": "...", "win": 1.0, "taught": ["policy"]}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.text import strip_surplus_symbols
from rlaif_pl.types import Preference

Array = NDArray[np.float64]
Pairs = Sequence[Preference]
FILE = "verdicts.jsonl"
NAMES = {
    "human": "people",
    "reading": "a language model's blind reading",
    "synthetic": "synthetic verdicts",
    "ai": "an AI labeler",
}
READERS = {"human": "people", "reading": "language models"}  # of blind rankings
METRIC = "verdicts_by"


def judge_counts(pairs: Pairs) -> dict[str, int]:
    """Return how many labeled pairs each kind of judge (a key of ``NAMES``) decided."""
    return dict(Counter(pair.source or "unknown" for pair in pairs if pair.p_first is not None))


def judges_named(judged: Mapping[str, float], names: Mapping[str, str] = NAMES) -> str:
    """Name the judges as in "agreement with people", the most frequent first."""
    order = sorted(judged, key=lambda kind: -judged[kind])
    return " and ".join(names.get(kind, "unknown judges") for kind in order) or names["human"]


def judge_metrics(judged: Mapping[str, int], prefix: str) -> dict[str, float]:
    """Return the counts as flat numbers."""
    return {f"{prefix}/{METRIC}_{kind}": count for kind, count in judged.items()}


def judges_in(metrics: Mapping[str, float], prefix: str, names: Mapping[str, str] = NAMES) -> str:
    """Name the judges behind metrics, from what ``judge_metrics`` wrote; people in an older run."""
    head = f"{prefix}/{METRIC}_"
    found = {k.removeprefix(head): n for k, n in metrics.items() if k.startswith(head)}
    return judges_named(found, names)


def decided(gold: Pairs) -> list[int]:
    """Positions of pairs that people decided: ``p_first`` is there and is not one half."""
    return [i for i, pair in enumerate(gold) if pair.p_first not in (None, 0.5)]


def stripped(pair: Preference) -> Preference:
    """Return the pair with surplus full stops and spaces removed from both responses."""
    first, second = strip_surplus_symbols(pair.first), strip_surplus_symbols(pair.second)
    return replace(pair, first=first, second=second)


def blinded(pairs: Iterable[Preference]) -> list[Preference]:
    """Return pairs as a labeler is given them: stripped, and without who won."""
    return [replace(stripped(pair), p_first=None, source=None) for pair in pairs]


def comparison_key(prompt: str, first: str, second: str) -> str:
    """Return what stands for a comparison in files without texts: a hash of the texts as judged."""
    digest = hashlib.blake2b(digest_size=12)
    for text in (prompt, first, second):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def p_first_of(pairs: Pairs) -> Array:
    """Probabilities that the first is better, of labeled pairs, ``(N,)``."""
    return np.array([pair.p_first for pair in pairs], np.float64)


def side(margin: Array) -> Array:
    """1 where the first is favored, 0 where the second is, 0.5 where neither, ``(N,)``; by how much."""
    return (np.sign(margin) + 1) / 2


def margins_by(score: Callable[[Sequence[str], Sequence[str]], ArrayLike], pairs: Pairs) -> Array:
    """Score of the first less that of the second response, ``(N,)``."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]  # neighbors share their prompt
    responses = [text for pair in pairs for text in (pair.first, pair.second)]
    scores = np.asarray(score(prompts, responses), np.float64)
    return scores[0::2] - scores[1::2]


def correctness(judged: Array, truth: Array) -> Array:
    """1 where two sides (see ``side``) are the same, 0 where not, 0.5 where ``judged`` is neither.

    ``truth``, by the judge to agree with, is never 0.5. ``(N,)`` each
    """
    return np.where(judged == 0.5, 0.5, (judged == truth).astype(np.float64))


def lengths_of(pairs: Pairs) -> tuple[Array, Array]:
    """Characters of the first and the second responses, ``(N,)`` each.

    Characters, as in arXiv 2309.00267, appendix J: on OpenAI's TL;DR comparisons they predict people's
    choice better than words do (70.9 % against 68.2 % on batch 13).
    """
    first = np.array([len(pair.first) for pair in pairs], np.float64)
    return first, np.array([len(pair.second) for pair in pairs], np.float64)


class JudgedPair(NamedTuple):
    """What one judge said of two policies."""

    judge: str  # its name
    a: str  # the policy whose wins are counted
    b: str  # the other
    wins: Mapping[str, float]  # 1, 0 or 0.5 for a tie, by `comparison_key` with A's response first
    taught: Collection[str] = ()  # policies that the judge's labels trained


@dataclass(frozen=True, slots=True)
class JudgeVerdicts:
    """All verdicts of one judge."""

    taught: tuple[str, ...]  # policies that its labels trained
    wins: Mapping[str, float]  # win of the first response, by `comparison_key`

    def win(self, prompt: str, first: str, second: str) -> float | None:
        """Return the win of ``first``, whichever stood first in the file; None where not judged."""
        found = self.wins.get(comparison_key(prompt, first, second))
        if found is not None:
            return found
        turned = self.wins.get(comparison_key(prompt, second, first))
        return None if turned is None else 1 - turned


Judges = Mapping[str, JudgeVerdicts]  # by name


def write_verdicts(folder: Path | str, pairs: Iterable[JudgedPair]) -> None:
    """Write FOLDER/verdicts.jsonl."""
    rows = (
        {"judge": pair.judge, "a": pair.a, "b": pair.b, "key": key, "win": win}
        | {"taught": [name for name in (pair.a, pair.b) if name in pair.taught]}
        for pair in pairs
        for key, win in pair.wins.items()
    )
    write_json_lines(Path(folder) / FILE, rows)


def read_verdicts(path: Path | str) -> dict[str, JudgeVerdicts]:
    """Read verdicts by name of the judge. ``ValueError``: a line is no verdict; says which."""
    wins: dict[str, dict[str, float]] = {}
    taught: dict[str, set[str]] = {}
    for where, row in read_rows(Path(path)):
        judge, key, win = row.get("judge"), row.get("key"), row.get("win")
        if not isinstance(judge, str) or not isinstance(key, str) or win not in (0, 0.5, 1):
            raise ValueError(
                f"{where}: expected judge, key and a win of 0, 0.5 or 1, got {sorted(row)} with "
                f"win {win!r}; give {FILE} of evaluate policy or evaluate matrix"
            )
        wins.setdefault(judge, {})[key] = float(win)  # type: ignore[arg-type]
        pupils = row.get("taught")
        taught.setdefault(judge, set()).update(pupils if isinstance(pupils, list) else ())
    return {name: JudgeVerdicts(tuple(sorted(taught[name])), found) for name, found in wins.items()}
