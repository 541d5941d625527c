"""Labeling through the store: nothing twice, nothing lost, nothing guessed."""

import dataclasses

import pytest

from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import label_pairs, stored_labels
from rlaif_pl.types import Labeler, Preference, Provenance

PAIRS = [Preference(f"p{n}", f"a{n}", f"b{n}", f"g{n}") for n in range(10)]


class Ruler:
    """Prefers the longer first letter's number; fails on given prompts, stops after some calls."""

    def __init__(self, fails=(), calls=None):
        self.asked = []
        self.fails = set(fails)
        self.calls = calls

    @property
    def fingerprint(self):
        return "ruler"

    def label(self, pairs):
        if self.calls is not None and len(self.asked) == self.calls:
            raise KeyboardInterrupt
        self.asked.append([pair.prompt for pair in pairs])
        return [self._judge(pair) for pair in pairs]

    def _judge(self, pair):
        if pair.prompt in self.fails:
            return dataclasses.replace(pair, provenance=Provenance(failure="malformed"))
        p = int(pair.prompt[1:]) / 10
        return dataclasses.replace(pair, p_first=p, source="ai", provenance=Provenance(tokens=1))


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "s.sqlite") as store:
        yield store


def test_pairs_come_back_labeled_in_order_and_are_asked_for_once(store):
    ruler = Ruler()
    assert isinstance(ruler, Labeler)
    result = label_pairs([*PAIRS, PAIRS[3]], ruler, store, chunk=4, progress=False)
    assert [len(chunk) for chunk in ruler.asked] == [4, 4, 2]
    assert [row.p_first for row in result.rows] == [n / 10 for n in [*range(10), 3]]
    assert (result.new, result.reused, result.unusable) == (10, 1, {})
    again = label_pairs(PAIRS, ruler, store, progress=False)
    assert (again.new, again.reused, len(ruler.asked)) == (0, 10, 3)


def test_a_kill_costs_one_chunk(store):
    with pytest.raises(KeyboardInterrupt):
        label_pairs(PAIRS, Ruler(calls=2), store, chunk=3, progress=False)
    assert len(store) == 6
    ruler = Ruler()
    result = label_pairs(PAIRS, ruler, store, chunk=3, progress=False)
    assert ruler.asked == [["p6", "p7", "p8"], ["p9"]]
    assert (result.new, result.reused) == (4, 6)


def test_what_cannot_be_judged_is_left_out_counted_and_asked_again_only_on_demand(store):
    result = label_pairs(PAIRS, Ruler(fails=["p2", "p5"]), store, progress=False)
    assert [row.prompt for row in result.rows] == ["p0", "p1", "p3", "p4", "p6", "p7", "p8", "p9"]
    assert result.unusable == {"malformed": 2}
    ruler = Ruler()
    assert label_pairs(PAIRS, ruler, store, progress=False).unusable == {"malformed": 2}
    assert ruler.asked == []
    assert label_pairs(PAIRS, ruler, store, progress=False, retry_failed=True).unusable == {}
    assert ruler.asked == [["p2", "p5"]]


def test_a_labeler_that_mixes_pairs_up_is_refused(store):
    ruler = Ruler()
    ruler.label = lambda pairs: list(reversed(pairs))
    with pytest.raises(ValueError, match="expected ruler to return the 10 pairs it was given"):
        label_pairs(PAIRS, ruler, store, progress=False)
    assert len(store) == 0


def test_reading_labels_that_were_never_made_is_an_error(store):
    label_pairs(PAIRS[:4], Ruler(), store, progress=False)
    with pytest.raises(ValueError, match="6 are missing; label the pairs first"):
        stored_labels(PAIRS, "ruler", store)


def test_a_chunk_of_nothing_is_refused(store):
    with pytest.raises(ValueError, match="chunk of at least 1"):
        label_pairs(PAIRS, Ruler(), store, chunk=0)


class Flaky(Ruler):
    """Fails with a kind of failure of one's choice."""

    def __init__(self, kind, fails=("p3",)):
        super().__init__(fails=fails)
        self.kind = kind

    def _judge(self, pair):
        judged = super()._judge(pair)
        if judged.p_first is None:
            return dataclasses.replace(judged, provenance=Provenance(failure=self.kind))
        return judged


@pytest.mark.parametrize(("kind", "again"), [("timeout", 1), ("http_503", 1), ("refused", 0)])
def test_failures_that_may_have_passed_are_asked_for_again_on_request(store, kind, again):
    label_pairs(PAIRS, Flaky(kind), store, progress=False)
    kept = label_pairs(PAIRS, Ruler(), store, progress=False)
    assert (kept.new, kept.unusable) == (0, {kind: 1})
    result = label_pairs(PAIRS, Ruler(), store, progress=False, retry_transient=True)
    assert result.new == again
    assert result.unusable == ({} if again else {kind: 1})


def test_a_note_is_shown_beside_the_bar(store, capsys):
    label_pairs(PAIRS, Ruler(), store, note=lambda: "spent 3 USD")
    assert "spent 3 USD" in capsys.readouterr().err
