"""Tables of what was ranked, and what has to be known to read them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlaif_pl.evaluation.human.findings import Findings, Reading
from rlaif_pl.evaluation.human.readers import PEOPLE
from rlaif_pl.evaluation.win_rates.report import judge_table, notes
from rlaif_pl.recipes.studies.results import ResultTable
from rlaif_pl.statistics import Interval

NONE = "–"


def tables_of(reading: Reading) -> list[ResultTable]:
    """Return the tables: by kind of rater, then of every two raters."""
    tables = [t for found in reading.findings for t in _tables(found, len(reading.findings) > 1)]
    return [*tables, *_pairs(reading)]


def notes_of(reading: Reading) -> list[str]:
    """Return whose judgment the tables rest on, and what else has to be known beside them."""
    found = [note for each in reading.findings for note in _notes(each, len(reading.findings) > 1)]
    if len(reading.findings) > 1:
        found.insert(0, "People and language models are never counted together.")
    if reading.pairs:
        found.append(
            "Cohen's kappa is 0 at chance and 1 in full agreement; n/a where both raters only ever "
            f"said one thing. {reading.pairs_left_out} pairs of raters with fewer prompts in common "
            "are left out."
        )
    return found


def _tables(found: Findings, is_shared: bool) -> Iterator[ResultTable]:
    """Yield the tables of one kind of rater; titles say which where there are two."""
    who = found.readers.plural
    for judge in found.matrix.judges:
        title, header, rows = judge_table(found.matrix, judge)
        on = f", on what {who} ranked" if is_shared and judge != who else ""
        yield ResultTable(title + on, header, rows)
    yield _policies(found)
    if found.acceptable.ratings:
        yield from _acceptable(found)
    yield _agreements(found)
    yield _raters(found)


def _policies(found: Findings) -> ResultTable:
    rows = []
    for name, (rank, best) in found.ranks.items():
        policy = found.matrix.policies[name]
        copied = _percent(policy.copied_4grams)
        rows.append([name, rank.number(), _percent(best), policy.words.number(".1f"), copied])
    header = ["policy", "mean rank", "ranked best, %", "words", "copied 4-grams, %"]
    return ResultTable(f"Policies, by {found.readers.plural}", header, rows)


def _acceptable(found: Findings) -> Iterator[ResultTable]:
    """Yield shares of acceptable texts, and the differences of every two policies."""
    shares, who = found.acceptable.shares, found.readers.plural
    rows = [[name, _percent(share), str(share.n)] for name, share in shares.items()]
    yield ResultTable(f"Acceptable texts, by {who}", ["policy", "acceptable, %", "judged"], rows)
    differences = found.acceptable.differences
    yield ResultTable(
        f"Acceptable texts, paired differences, by {who}",
        ["policy minus policy", "percentage points"],
        [[f"{a} minus {b}", each.points()] for (a, b), each in differences.items()],
    )


def _agreements(found: Findings) -> ResultTable:
    rows = [
        [each.judge, _percent(each.majority), _percent(each.person), str(each.pairs)]
        for each in found.judges
    ]
    one, who = found.readers.one, found.readers.plural
    shared = sum(len(each.ranks) > 1 for each in found.ranked)
    rows.insert(0, [f"another {one}", NONE, _percent(found.people.agreement), f"{shared} prompts"])
    header = ["judge", f"agrees with most {who}, %", f"with one {one}, %", "pairs of responses"]
    return ResultTable(f"Agreement with {who}", header, rows)


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
    return ResultTable(found.readers.plural.capitalize(), header, rows)


def _pairs(reading: Reading) -> Iterator[ResultTable]:
    """Yield a table of every two raters, where two ranked the same."""
    if reading.pairs:
        header = [
            "raters",
            "kappa of preferences",
            "pairs of texts",
            "kappa of acceptable",
            "texts",
        ]
        rows = [
            [
                f"{each.a} and {each.b}",
                each.preferences.number(),
                str(each.preferences.n),
                each.acceptable.number(),
                str(each.acceptable.n),
            ]
            for each in reading.pairs
        ]
        yield ResultTable("Every two raters", header, rows)


def _notes(found: Findings, is_shared: bool) -> Iterator[str]:
    """Yield whose judgment it is, then what to know beside the tables."""
    who = found.readers.plural
    others = "" if found.readers is PEOPLE else ", not by people"
    yield f"Read by {who}{others}: raters {len(found.raters)}, rankings {found.rankings}."
    for note in [*notes(found.matrix), *_remarks(found)]:
        yield f"{who.capitalize()}: {note}" if is_shared else note


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


def _percent(interval: Interval) -> str:
    return interval.percent().replace(" %", "")


def _plain(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else NONE
