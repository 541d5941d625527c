"""Tables, plot, numbers and files of what was ranked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlaif_pl.data.metric_files import write_csv
from rlaif_pl.evaluation.gold import judge_metrics
from rlaif_pl.evaluation.human.findings import Findings, Reading
from rlaif_pl.evaluation.human.raters import Rater
from rlaif_pl.evaluation.human.readers import PEOPLE, Kind
from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tables import notes_of, tables_of
from rlaif_pl.evaluation.human.tasks import Task
from rlaif_pl.evaluation.results import StudyResults
from rlaif_pl.evaluation.win_rates.measure import WinMatrix
from rlaif_pl.evaluation.win_rates.report import heat_map

PLOT = "win_rates"


def results_of(reading: Reading) -> StudyResults:
    """Lay a reading out as tables, notes, numbers and a plot."""
    metrics: dict[str, float] = {}
    for found in reading.findings:
        metrics |= _metrics(found)
    judged: dict[str, int] = {found.readers.source: found.rankings for found in reading.findings}
    metrics |= judge_metrics(judged, "rating")
    for each in reading.pairs:
        names = f"{each.a}_and_{each.b}".replace(" ", "_")
        metrics |= each.preferences.to_metrics(f"rating/kappa_preferences/{names}")
        metrics |= each.acceptable.to_metrics(f"rating/kappa_acceptable/{names}")
    who = " and by ".join(found.readers.plural for found in reading.findings)
    return StudyResults(
        PLOT,
        tables_of(reading),
        notes_of(reading),
        [row for found in reading.findings for row in _records(found)],
        {key: value for key, value in metrics.items() if math.isfinite(value)},
        heat_map(_plotted(reading)),
        f"Win rates by {who}, and by judges on the same responses",
    )


def write_ratings(
    folder: Path | str,
    tasks: Mapping[str, Task],
    ratings: Sequence[Rating],
    raters: Mapping[Kind, Mapping[str, Rater]],
) -> None:
    """Write FOLDER/ratings.csv: a row a rating and response, without texts."""
    rows: list[dict[str, object]] = []
    for number, rating in enumerate(ratings, 1):
        task = tasks[rating.task]
        for place, item in enumerate(rating.shown, 1):
            said = rating.acceptable
            rows.append(
                {
                    "rating": number,
                    "rater": raters[rating.kind][rating.rater.casefold()].name,
                    "kind": rating.kind,
                    "task": task.id,
                    "group": task.group,
                    "policies": "+".join(task.items[item].policies),
                    "place": place,
                    "rank": "" if rating.ranks is None else rating.ranks[item],
                    "acceptable": "" if said is None else int(said[item]),
                    "seconds": f"{rating.seconds:.1f}",
                    "time": f"{rating.created:.0f}",
                    "reason": rating.reason or "",
                }
            )
    write_csv(Path(folder) / "ratings.csv", rows)


def _plotted(reading: Reading) -> WinMatrix:
    """Return the matrix to draw: the first kind's with its judges, and the other kind beside."""
    first, *others = reading.findings
    matrix = first.matrix
    for found in others:
        who = found.readers.plural
        cells = [cell for cell in found.matrix.cells if cell.judge == who]
        judges = {**matrix.judges, who: ()}
        matrix = replace(matrix, judges=judges, cells=[*matrix.cells, *cells])
    return matrix


def _metrics(found: Findings) -> dict[str, float]:
    """Return flat numbers ``rating/...`` of people, ``rating/models/...`` of models."""
    raters, prefix = found.raters.values(), found.readers.prefix
    metrics: dict[str, float] = {
        f"{prefix}/prompts": found.matrix.prompts,
        f"{prefix}/rankings": found.rankings,
        f"{prefix}/ties": found.tied,
        f"{prefix}/skipped": sum(each.skipped for each in raters),
        f"{prefix}/undone": found.undone,
        f"{prefix}/raters": len(found.raters),
        f"{prefix}/hours": sum(each.minutes for each in raters) / 60,
        f"{prefix}/kendall_w_chance": found.people.chance,
        f"{prefix}/first_shown_best_chance": found.top[1],
    }
    agree = "people_agree" if found.readers is PEOPLE else "models_agree"
    for name, interval in (
        ("kendall_w", found.people.w),
        ("rank_correlation", found.people.correlation),
        (agree, found.people.agreement),
        ("first_shown_best", found.top[0]),
    ):
        metrics |= interval.to_metrics(f"{prefix}/{name}")
    for cell in found.matrix.cells:
        judge = "" if cell.judge == found.readers.plural else f"{cell.judge}/"
        metrics |= cell.rate.to_metrics(f"{judge}{cell.a}_vs_{cell.b}", prefix)
        metrics[f"{prefix}/{judge}{cell.a}_vs_{cell.b}_p"] = cell.p_adjusted
    for each in found.judges:
        key = each.judge.replace(" ", "_")
        metrics |= each.majority.to_metrics(f"{prefix}/agreement/{key}")
        metrics |= each.person.to_metrics(f"{prefix}/agreement/{key}_person")
    for name, (rank, best) in found.ranks.items():
        metrics |= rank.to_metrics(f"{prefix}/mean_rank/{name}")
        metrics |= best.to_metrics(f"{prefix}/best/{name}")
    for name, share in found.acceptable.shares.items():
        metrics |= share.to_metrics(f"{prefix}/acceptable/{name}")
    for (a, b), difference in found.acceptable.differences.items():
        metrics |= difference.to_metrics(f"{prefix}/acceptable/{a}_minus_{b}")
    return metrics


def _records(found: Findings) -> Iterator[dict[str, object]]:
    """Yield a row of rows.csv a judge and pair of policies."""
    for cell in found.matrix.cells:
        raw, equal = cell.rate.raw, cell.rate.length_controlled
        yield {
            "ranked_by": found.readers.plural,
            "judge": cell.judge,
            "policy": cell.a,
            "against": cell.b,
            "win_rate": raw.value,
            "low": raw.low,
            "high": raw.high,
            "at_equal_length": equal.value,
            "equal_low": equal.low,
            "equal_high": equal.high,
            "p_adjusted": cell.p_adjusted,
            "taught": int(cell.is_taught),
            "comparisons": cell.rate.comparisons,
            "ties": cell.rate.ties,
        }
