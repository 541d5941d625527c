"""Tables, plot, numbers and files of what people ranked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from rlaif_pl.evaluation.matrix.measure import WinMatrix
from rlaif_pl.evaluation.matrix.report import heat_map, judge_table, notes, rich_table
from rlaif_pl.evaluation.metrics import write_csv
from rlaif_pl.rating.agreement import Agreement, Concordance, agreements, concordance
from rlaif_pl.rating.ranked import Estimator, Ranked, gather
from rlaif_pl.rating.raters import Rater, first_shown_best, raters_of
from rlaif_pl.rating.store import Rating
from rlaif_pl.rating.tasks import Task
from rlaif_pl.rating.win_rates import PEOPLE, JudgeVerdicts, win_matrix
from rlaif_pl.statistics import Interval
from rlaif_pl.studies.results import Results, ResultTable

PLOT = "win_rates"
NONE = "–"


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is known of the ratings.

    Attributes:
        ranked: Tasks that people ranked.
        matrix: Win rates by people and judges.
        ranks: Mean rank and share ranked best, by policy.
        people: How far people agree.
        judges: How far judges agree with people.
        raters: What each person did, by name without capitals.
        top: How often the response at the top of the page was ranked best, and what chance gives.
        undone: Ratings that were taken back.
    """

    ranked: Sequence[Ranked]
    matrix: WinMatrix
    ranks: Mapping[str, tuple[Interval, Interval]]
    people: Concordance
    judges: Sequence[Agreement]
    raters: Mapping[str, Rater]
    top: tuple[Interval, float]
    undone: int


def findings_of(
    tasks: Mapping[str, Task],
    ratings: Sequence[Rating],
    policies: Sequence[str],
    judges: Mapping[str, JudgeVerdicts],
    *,
    show_names: bool = False,
    undone: int = 0,
    estimator: Estimator | None = None,
) -> Findings:
    """Measure all there is.

    Args:
        tasks: By id.
        ratings: Ratings that count.
        policies: Names of the policies.
        judges: Verdicts by name of the judge.
        show_names: Call people by their names, not by numbers.
        undone: Ratings that were taken back.
        estimator: Settings of the intervals; None takes the usual ones.

    Raises:
        ValueError: Nobody has ranked anything.
    """
    estimator = estimator or Estimator()
    ranked = gather(tasks, ratings)
    if not ranked:
        raise ValueError(
            f"expected rankings, got none ({len(ratings)} without a ranking); rank some first: "
            "python -m rlaif_pl rate"
        )
    return Findings(
        ranked,
        win_matrix(ranked, policies, judges, estimator),
        {name: _ranks(ranked, name, estimator) for name in policies},
        concordance(ranked, estimator),
        agreements(ranked, judges, estimator),
        raters_of(ratings, show_names),
        first_shown_best(tasks, ratings, estimator),
        undone,
    )


def results_of(found: Findings) -> Results:
    """Lay findings out as tables, notes, numbers and a plot."""
    tables = [ResultTable(*judge_table(found.matrix, judge)) for judge in found.matrix.judges]
    tables += [_policies(found), _agreements(found), _raters(found)]
    return Results(
        PLOT,
        tables,
        [*notes(found.matrix), *_notes(found)],
        list(_records(found.matrix)),
        _metrics(found),
        heat_map(found.matrix),
        "Win rates by people and by judges on the same responses",
    )


def render(found: Findings, results: Results, console: Console) -> None:
    """Print tables and notes, win rates as ``evaluate matrix`` prints them."""
    for judge in found.matrix.judges:
        console.print(rich_table(*judge_table(found.matrix, judge)))
    for table in results.tables[len(found.matrix.judges) :]:
        console.print(table.rich())
    for note in results.notes:
        console.print(escape(note), highlight=False)


def write_ratings(
    folder: Path | str,
    tasks: Mapping[str, Task],
    ratings: Sequence[Rating],
    raters: Mapping[str, Rater],
) -> None:
    """Write FOLDER/ratings.csv: a row a rating and response, without texts."""
    rows: list[dict[str, object]] = []
    for number, rating in enumerate(ratings, 1):
        task = tasks[rating.task]
        for place, item in enumerate(rating.shown, 1):
            rows.append(
                {
                    "rating": number,
                    "rater": raters[rating.rater.casefold()].name,
                    "task": task.id,
                    "group": task.group,
                    "policies": "+".join(task.items[item].policies),
                    "place": place,
                    "rank": "" if rating.ranks is None else rating.ranks[item],
                    "seconds": f"{rating.seconds:.1f}",
                    "time": f"{rating.created:.0f}",
                    "reason": rating.reason or "",
                }
            )
    write_csv(Path(folder) / "ratings.csv", rows)


def _ranks(
    ranked: Sequence[Ranked], policy: str, estimator: Estimator
) -> tuple[Interval, Interval]:
    """Return mean rank and share ranked best of a policy, a row a person and prompt."""
    values, groups = [], []
    for each in ranked:
        item = each.task.item_of(policy)
        values += [row[item] for row in each.ranks if item is not None]
        groups += [each.task.group for _ in each.ranks]
    return (
        estimator.mean([float(value) for value in values], groups),
        estimator.share([float(value == 1) for value in values], groups),
    )


def _policies(found: Findings) -> ResultTable:
    rows = []
    for name, (rank, best) in found.ranks.items():
        policy = found.matrix.policies[name]
        copied = _percent(policy.copied_4grams)
        rows.append([name, rank.number(), _percent(best), policy.words.number(".1f"), copied])
    header = ["policy", "mean rank", "ranked best, %", "words", "copied 4-grams, %"]
    return ResultTable("Policies, by people", header, rows)


def _agreements(found: Findings) -> ResultTable:
    rows = [
        [each.judge, _percent(each.majority), _percent(each.person), str(each.pairs)]
        for each in found.judges
    ]
    shared = sum(len(each.ranks) > 1 for each in found.ranked)
    rows.insert(0, ["another person", NONE, _percent(found.people.agreement), f"{shared} prompts"])
    header = ["judge", "agrees with most people, %", "with one person, %", "pairs of responses"]
    return ResultTable("Agreement with people", header, rows)


def _raters(found: Findings) -> ResultTable:
    header = ["rater", "ranked", "cannot judge", "median s", "minutes", "correlation with others"]
    rows = [
        [
            each.name,
            str(each.ranked),
            str(each.skipped),
            _plain(each.median_seconds, ".0f"),
            _plain(each.minutes, ".1f"),
            f"{_plain(each.correlation, '.2f')} ({each.shared})",
        ]
        for each in found.raters.values()
    ]
    return ResultTable("People", header, rows)


def _notes(found: Findings) -> Iterator[str]:
    """Yield what has to be known beside the tables."""
    people = found.people
    if people.w.n:
        yield (
            f"Kendall's W over {people.w.n} prompts that several people ranked: {people.w.number()}, "
            f"where ranks at random give {people.chance:.2f} (the paper's raters: 0.6 to 0.7); mean "
            f"rank correlation of two people {people.correlation.number()}, 0 at chance."
        )
    else:
        yield "No prompt was ranked by two people yet, so nothing is known of their agreement."
    top, chance = found.top
    yield (
        f"The response at the top of the page was ranked best in {top.percent()} of rankings; "
        f"chance: {100 * chance:.1f} %."
    )
    skipped = sum(each.skipped for each in found.raters.values())
    yield (
        f"{skipped} times a person could not judge, which counts nowhere; {found.undone} ratings were "
        "taken back and given anew or not at all."
    )


def _metrics(found: Findings) -> dict[str, float]:
    """Return flat numbers ``rating/...``; what does not exist is left out."""
    raters = found.raters.values()
    metrics: dict[str, float] = {
        "rating/prompts": found.matrix.prompts,
        "rating/rankings": sum(each.ranked for each in raters),
        "rating/skipped": sum(each.skipped for each in raters),
        "rating/undone": found.undone,
        "rating/raters": len(found.raters),
        "rating/hours": sum(each.minutes for each in raters) / 60,
        "rating/kendall_w_chance": found.people.chance,
        "rating/first_shown_best_chance": found.top[1],
    }
    for name, interval in (
        ("kendall_w", found.people.w),
        ("rank_correlation", found.people.correlation),
        ("people_agree", found.people.agreement),
        ("first_shown_best", found.top[0]),
    ):
        metrics |= interval.to_metrics(f"rating/{name}")
    for cell in found.matrix.cells:
        judge = "" if cell.judge == PEOPLE else f"{cell.judge}/"
        metrics |= cell.rate.to_metrics(f"{judge}{cell.a}_vs_{cell.b}", "rating")
        metrics[f"rating/{judge}{cell.a}_vs_{cell.b}_p"] = cell.p_adjusted
    for each in found.judges:
        key = each.judge.replace(" ", "_")
        metrics |= each.majority.to_metrics(f"rating/agreement/{key}")
        metrics |= each.person.to_metrics(f"rating/agreement/{key}_person")
    for name, (rank, best) in found.ranks.items():
        metrics |= rank.to_metrics(f"rating/mean_rank/{name}")
        metrics |= best.to_metrics(f"rating/best/{name}")
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def _records(matrix: WinMatrix) -> Iterator[dict[str, object]]:
    """Yield a row of rows.csv a judge and pair of policies."""
    for cell in matrix.cells:
        raw, equal = cell.rate.raw, cell.rate.length_controlled
        yield {
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


def _percent(interval: Interval) -> str:
    return interval.percent().replace(" %", "")


def _plain(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else NONE
