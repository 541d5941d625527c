"""Every verdict of every judge in one file, so that others can be held against them.

A line a comparison, without texts::

    {"judge": "labeler", "a": "policy", "b": "sft", "key": "...", "win": 1.0, "taught": ["policy"]}

``key`` is ``pairs.comparison_key`` of the texts as judged, ``win`` that of ``a`` (0.5 for a tie),
``taught`` those of the two that the judge's labels trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.evaluation.pairs import comparison_key
from rlaif_pl.evaluation.win_rate import Verdict

FILE = "verdicts.jsonl"


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """What one judge said of two policies."""

    judge: str  # its name
    a: str  # the policy whose wins are counted
    b: str  # the other
    verdicts: Sequence[Verdict]  # its verdicts
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


def write_verdicts(folder: Path | str, pairs: Iterable[JudgedPair]) -> None:
    """Write FOLDER/verdicts.jsonl."""
    write_json_lines(Path(folder) / FILE, _lines(pairs))


def read_verdicts(path: Path | str) -> dict[str, JudgeVerdicts]:
    """Read verdicts by name of the judge.

    Raises:
        ValueError: A line is no verdict; names file, line and what to do.
    """
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


def _lines(pairs: Iterable[JudgedPair]) -> Iterator[dict[str, object]]:
    """Yield a record a comparison; the same key is written once a judge and pair."""
    for pair in pairs:
        names = [name for name in (pair.a, pair.b) if name in pair.taught]
        for key, win in dict(pair.verdicts).items():
            yield {
                "judge": pair.judge,
                "a": pair.a,
                "b": pair.b,
                "key": key,
                "win": win,
                "taught": names,
            }
