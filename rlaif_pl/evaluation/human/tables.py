"""Tables, notes, plot, numbers and files of what was ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rlaif_pl.data.metric_files import write_csv
from rlaif_pl.evaluation.human.findings import Findings, Raters, Reading
from rlaif_pl.evaluation.human.records import PEOPLE, Rating
from rlaif_pl.evaluation.human.tasks import Tasks
from rlaif_pl.evaluation.pairs import judge_metrics
from rlaif_pl.evaluation.results import StudyResults
from rlaif_pl.evaluation.win_rates.measure import WinMatrix
from rlaif_pl.evaluation.win_rates.report import cell_record, heat_map, judge_table, notes
from rlaif_pl.statistics import Interval, flat_metrics
from rlaif_pl.tables import PERCENT, POINTS, Column, Columns, Rows, Table


def notes_of(reading: Reading) -> list[str]:
    """Return whose judgment the tables rest on, and what else has to be known beside them."""
    is_shared = len(reading.findings) > 1
    found = ["People and language models are never counted together."] * is_shared
    for each in reading.findings:
        who, rankings = each.readers.plural, each.rankings
        others = "" if each.readers is PEOPLE else ", not by people"
        found.append(f"Read by {who}{others}: raters {len(each.raters)}, rankings {rankings}.")
        said = f"{who.capitalize()}: " * is_shared
        found += [said + note for note in [*notes(each.matrix), *_remarks(each)]]
    if reading.pairs:
        found.append(
            "Cohen's kappa is 0 at chance and 1 in full agreement; n/a where both raters only ever "
            f"said one thing. {reading.pairs_left_out} pairs of raters with fewer prompts in common "
            "are left out."
        )
    return found


def _tables(found: Findings, is_shared: bool) -> Iterator[Table]:
    who = found.readers.plural
    for judge in found.matrix.judges:
        table = judge_table(found.matrix, judge)
        on = f", on what {who} ranked" if is_shared and judge != who else ""
        yield replace(table, title=table.title + on)
    yield from _of_policies(found)
    yield from _of_raters(found)


def _of_policies(found: Findings) -> Iterator[Table]:
    columns: Columns = ["policy", Column("mean rank", ".2f"), Column("ranked best, %", PERCENT)]
    columns += [Column("words", ".1f"), Column("copied 4-grams, %", PERCENT)]
    policies = found.matrix.policies
    rows: Rows = [
        [name, *ranks, policies[name].words, policies[name].copied_4grams]
        for name, ranks in found.ranks.items()
    ]
    by, acceptable = f"by {found.readers.plural}", found.acceptable
    yield Table(f"Policies, {by}", columns, rows)
    if acceptable.shares:
        columns = ["policy", Column("acceptable, %", PERCENT), "judged"]
        rows = [[name, share, share.n] for name, share in acceptable.shares.items()]
        yield Table(f"Acceptable texts, {by}", columns, rows)
        columns = ["policy minus policy", Column("percentage points", POINTS)]
        rows = [[f"{a} minus {b}", each] for (a, b), each in acceptable.differences.items()]
        yield Table(f"Acceptable texts, paired differences, {by}", columns, rows)


def _of_raters(found: Findings) -> Iterator[Table]:
    one, who = found.readers.one, found.readers.plural
    shared = sum(len(each.ranks) > 1 for each in found.ranked)
    columns: Columns = ["judge", Column(f"agrees with most {who}, %", PERCENT)]
    columns += [Column(f"with one {one}, %", PERCENT), "pairs of responses"]
    rows: Rows = [[f"another {one}", None, found.people.agreement, f"{shared} prompts"]]
    rows += [[each.judge, each.majority, each.person, each.pairs] for each in found.judges]
    yield Table(f"Agreement with {who}", columns, rows)
    columns = ["rater", "ranked", "cannot judge", Column("median s", ".0f")]
    columns += [Column("minutes", ".1f"), Column("correlation with others", ".2f"), "on prompts"]
    rows = [
        [r.name, r.ranked, r.skipped, r.median_seconds, r.minutes, r.correlation, r.shared]
        for r in found.raters.values()
    ]
    yield Table(who.capitalize(), columns, rows)


def _pairs(reading: Reading) -> Iterator[Table]:
    columns: Columns = ["raters", Column("kappa of preferences", ".2f"), "pairs of texts"]
    columns += [Column("kappa of acceptable", ".2f"), "texts"]
    rows: Rows = [
        [f"{p.a} and {p.b}", p.preferences, p.preferences.n, p.acceptable, p.acceptable.n]
        for p in reading.pairs
    ]
    if rows:
        yield Table("Every two raters", columns, rows)


def _remarks(found: Findings) -> Iterator[str]:
    people, readers = found.people, found.readers
    if people.w.n:
        yield (
            f"Kendall's W over {people.w.n} prompts that several {readers.plural} ranked: "
            f"{people.w.number()}, where ranks at random give {people.chance:.2f} (the paper's raters: "
            f"0.6 to 0.7); mean rank correlation of two {people.correlation.number()}, 0 at chance."
        )
    else:
        yield (
            f"No prompt was ranked by two {readers.plural} yet, so nothing is known of their agreement."
        )
    top, chance = found.top
    yield (
        f"The response at the top of the page was ranked best in {top.percent()} of rankings; "
        f"chance: {100 * chance:.1f} %."
    )
    if found.tied:
        yield f"{found.tied} of {found.rankings} rankings have ties, which count half."
    skipped = sum(each.skipped for each in found.raters.values())
    yield (
        f"{skipped} times a {readers.one} could not judge, which counts nowhere; {found.undone} "
        "ratings were taken back and given anew or not at all."
    )


PLOT = "win_rates"


def results_of(reading: Reading) -> StudyResults:
    """Lay a reading out as tables, notes, numbers and a plot."""
    judged: dict[str, int] = {found.readers.source: found.rankings for found in reading.findings}
    metrics = judge_metrics(judged, "rating")
    for found in reading.findings:
        metrics |= _metrics(found)
    for each in reading.pairs:
        names = f"{each.a}_and_{each.b}".replace(" ", "_")
        metrics |= each.preferences.to_metrics(f"rating/kappa_preferences/{names}")
        metrics |= each.acceptable.to_metrics(f"rating/kappa_acceptable/{names}")
    is_shared = len(reading.findings) > 1
    who = " and by ".join(found.readers.plural for found in reading.findings)
    return StudyResults(
        PLOT,
        [*(t for found in reading.findings for t in _tables(found, is_shared)), *_pairs(reading)],
        notes_of(reading),
        [
            {"ranked_by": found.readers.plural, **cell_record(found.matrix, cell, cell.a, cell.b)}
            for found in reading.findings
            for cell in found.matrix.cells
        ],
        metrics,
        heat_map(_plotted(reading)),
        f"Win rates by {who}, and by judges on the same responses",
    )


def write_ratings(
    folder: Path | str, tasks: Tasks, ratings: Sequence[Rating], raters: Raters
) -> None:
    """Write FOLDER/ratings.csv: a row a rating and response, without texts."""
    rows: list[dict[str, object]] = []
    for number, rating in enumerate(ratings, 1):
        task, said = tasks[rating.task], rating.acceptable
        name = raters[rating.kind][rating.name].name
        for place, item in enumerate(rating.shown, 1):
            row: dict[str, object] = {"rating": number, "rater": name, "kind": rating.kind}
            row |= {"task": task.id, "group": task.group}
            row |= {"policies": "+".join(task.items[item].policies), "place": place}
            row["rank"] = "" if rating.ranks is None else rating.ranks[item]
            row["acceptable"] = "" if said is None else int(said[item])
            row |= {"seconds": f"{rating.seconds:.1f}", "time": f"{rating.created:.0f}"}
            rows.append(row | {"reason": rating.reason or ""})
    write_csv(Path(folder) / "ratings.csv", rows)


def _plotted(reading: Reading) -> WinMatrix:
    first, *rest = (found.matrix for found in reading.findings)
    names = [found.readers.plural for found in reading.findings[1:]]
    cells = [c for x, name in zip(rest, names, strict=True) for c in x.cells if c.judge == name]
    judges = {**first.judges, **dict.fromkeys(names, ())}
    return replace(first, judges=judges, cells=[*first.cells, *cells])


def _metrics(found: Findings) -> dict[str, float]:
    """Return flat numbers ``rating/...`` of people, ``rating/models/...`` of models."""
    raters, people, who = found.raters.values(), found.people, found.readers.plural
    values: dict[str, Interval | float] = {
        "prompts": found.matrix.prompts,
        "rankings": found.rankings,
        "ties": found.tied,
        "skipped": sum(each.skipped for each in raters),
        "undone": found.undone,
        "raters": len(raters),
        "hours": sum(each.minutes for each in raters) / 60,
        "kendall_w": people.w,
        "kendall_w_chance": people.chance,
        "rank_correlation": people.correlation,
        "people_agree" if found.readers is PEOPLE else "models_agree": people.agreement,
        "first_shown_best": found.top[0],
        "first_shown_best_chance": found.top[1],
    }
    for each in found.judges:
        key = each.judge.replace(" ", "_")
        values |= {f"agreement/{key}": each.majority, f"agreement/{key}_person": each.person}
    for name, (rank, best) in found.ranks.items():
        values |= {f"mean_rank/{name}": rank, f"best/{name}": best}
    values |= {f"acceptable/{name}": share for name, share in found.acceptable.shares.items()}
    differences = found.acceptable.differences.items()
    values |= {f"acceptable/{a}_minus_{b}": difference for (a, b), difference in differences}
    metrics: dict[str, float] = {}
    for cell in found.matrix.cells:
        name = f"{cell.judge}/" * (cell.judge != who) + f"{cell.a}_vs_{cell.b}"
        values[f"{name}_p"] = cell.p_adjusted
        metrics |= cell.rate.to_metrics(name, found.readers.prefix)
    return metrics | flat_metrics(found.readers.prefix, values)
