import csv
import math
from dataclasses import replace

import pytest
from matplotlib.text import Text
from rich.console import Console

from rlaif_pl.data.revisions import Revision
from rlaif_pl.evaluation.harmlessness.rounds import (
    JudgeQuality,
    compare_rounds,
    measure_judge,
    notes,
    page_of,
    plot,
    write,
)
from rlaif_pl.statistics import Estimator, Interval, empty_interval
from rlaif_pl.types import Preference


class Kind:
    """A pairwise judge that prefers the response with more of the word "kind"."""

    fingerprint = "kind"

    def __init__(self, turned=False):
        self.turned = turned

    def label(self, pairs):
        return [replace(pair, p_first=self._p_first(pair), source="ai") for pair in pairs]

    def _p_first(self, pair):
        counts = [text.count("kind") for text in (pair.first, pair.second)]
        better = (counts[0] > counts[1]) + 0.5 * (counts[0] == counts[1])
        return 1 - better if self.turned else better


def rows(*chains):
    """Rows of prompts whose responses are given by round; None is a round without one."""
    return [
        Revision(
            f"g{n}",
            f"prompt {n}",
            "harmful",
            number,
            text or "",
            failure=None if text else "revision_empty",
        )
        for n, chain in enumerate(chains)
        for number, text in enumerate(chain)
    ]


def gold(count):
    """People prefer the kinder response, which stands first in every second pair."""
    texts = ("kind words.", "rude words.")
    return [
        Preference(
            f"p{n}", texts[n % 2], texts[1 - n % 2], f"p{n}", float(n % 2 == 0), source="human"
        )
        for n in range(count)
    ]


def quality(low, high, name="harmless"):
    interval = Interval((low + high) / 2, low, high, 40)
    rule = Interval(0.5, 0.4, 0.6, 40)
    return JudgeQuality(name, "kind", "pairs of people", "people", interval, rule, empty_interval())


GOOD, CHANCE, BELOW = quality(0.7, 0.9), quality(0.45, 0.6), quality(0.2, 0.4)
CHAINS = rows(
    ("rude.", "kind.", "kind, kind."),
    ("rude.", "kind.", "kind."),
    ("kind.", "rude.", "kind, kind."),
    ("rude.", "so rude.", None),
)


def test_shares_by_hand():
    study = compare_rounds(
        CHAINS, {"harmless": Kind()}, {"harmless": GOOD}, estimator=Estimator(50)
    )
    found = {(r.round, r.against): r.rate for r in study.results}
    assert set(found) == {(1, 0), (2, 0), (2, 1)}
    # round 1 against 0: wins 1, 1, 0, and 0.5 where neither is kind: 2.5 of 4
    assert found[1, 0].raw.value == pytest.approx(2.5 / 4)
    # round 2 against 0: 1, 1, 1 on the three prompts that have a second revision
    assert (found[2, 0].raw.value, found[2, 0].raw.n) == (1.0, 3)
    # round 2 against 1: 1, the same text counts 0.5, 1: 2.5 of 3
    assert found[2, 1].raw.value == pytest.approx(2.5 / 3)
    assert study.missing == {1: 0, 2: 1}
    metrics = study.to_metrics()
    assert metrics["revisions/harmless/round_2_vs_0"] == 1.0
    assert metrics["revisions/harmless/judge_can_tell"] == 1.0


def test_a_round_is_read_by_its_interval():
    better = rows(*[("rude.", "kind.")] * 12)
    worse = rows(*[("kind.", "rude.")] * 12)
    mixed = rows(*[("kind.", "rude."), ("rude.", "kind.")] * 6)
    for chains, reading in (
        (better, "more harmless"),
        (worse, "less harmless"),
        (mixed, "no difference seen"),
    ):
        study = compare_rounds(
            chains, {"harmless": Kind()}, {"harmless": GOOD}, estimator=Estimator(200)
        )
        assert study.reading(study.results[0]) == reading


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (CHANCE, "does not show that it is above chance"),
        (BELOW, "less than by chance"),
        (None, "was not measured"),
    ],
)
def test_nothing_is_claimed_from_a_judge_that_cannot_tell(judge, said, tmp_path):
    if judge is None:
        judge = measure_judge("harmless", Kind(), None, None)
    study = compare_rounds(
        rows(*[("rude.", "kind.")] * 12), {"harmless": Kind()}, {"harmless": judge}
    )
    assert study.results[0].rate.raw.low > 0.5
    assert study.reading(study.results[0]) == "nothing claimed"
    assert said in notes(study)[0]
    assert "nothing is claimed" in notes(study)[0]
    drawn = " ".join(text.get_text() for text in plot(study).findobj(Text))
    for text in (page_of(study).markdown(), drawn):
        assert "more harmless" not in text
    assert "harmless (judge not shown to be above chance)" in drawn
    write(study, tmp_path)
    (row,) = csv.DictReader((tmp_path / "rows.csv").open())
    assert (row["reading"], row["judge_can_tell"]) == ("nothing claimed", "False")


def test_a_judge_is_measured_on_peoples_pairs():
    good = measure_judge("harmless", Kind(), gold(30), "gold", estimator=Estimator(50))
    assert good.alignment.value == 1.0
    assert good.can_tell
    turned = measure_judge("harmless", Kind(turned=True), gold(30), "gold", estimator=Estimator(50))
    assert turned.alignment.value == 0.0
    assert not turned.can_tell
    assert "30 pairs of gold" in good.text()


def test_a_slot_that_wins_is_said_of_the_pairs_it_was_counted_on():
    judge = replace(GOOD, gold="mine", same_slot=Interval(0.4, 0.3, 0.5, 30))
    study = compare_rounds(CHAINS, {"harmless": Kind()}, {"harmless": judge})
    assert "in 40.0 % [30.0, 50.0] of the pairs of mine." in notes(study)[1]


def test_table_and_files_show_no_reply(tmp_path):
    study = compare_rounds(
        CHAINS,
        {"harmless": Kind(), "helpful": Kind(turned=True)},
        {"harmless": GOOD, "helpful": replace(CHANCE, name="helpful")},
        estimator=Estimator(50),
    )
    with (tmp_path / "out.txt").open("w") as stream:
        page_of(study).render(Console(file=stream, width=120))
    write(study, tmp_path)
    for name in ("out.txt", "table.md", "rows.csv", "rounds.svg"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "rude" not in text
        assert "prompt 0" not in text
    records = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [(r["judge"], r["round"], r["against"]) for r in records] == [
        (judge, number, against)
        for judge in ("harmless", "helpful")
        for number, against in (("1", "0"), ("2", "0"), ("2", "1"))
    ]
    assert float(records[0]["preferred"]) == pytest.approx(2.5 / 4)
    assert not math.isnan(float(records[0]["judge_alignment_low"]))


def test_rows_without_a_revision_are_an_error():
    with pytest.raises(ValueError, match="got 1 rows without any revision"):
        compare_rounds(rows(("rude.",)), {"harmless": Kind()}, {"harmless": GOOD})
