import json
import math

import pytest

from rlaif_pl.cli.commands.label import label
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.labeling.calls import ChoiceRequest, Question, Response
from rlaif_pl.labeling.outcome import Judgment
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.usage.spending import OutOfBudget, Price
from rlaif_pl.types import Preference


def test_every_usable_pair_is_labeled_softly(command, out, labeler, data_files, small_pairs):
    metrics = command("label", f"--pairs={data_files.unlabeled}", *labeler)
    rows = load_preferences(str(out / "labeled.jsonl")).rows
    assert len(rows) == len(small_pairs) == metrics["label/new"]
    assert all(0 < row.p_first < 1 and row.source == "ai" for row in rows)
    assert rows[0].provenance.strategy == "likelihood"
    assert metrics["label/count/asked"] == len(small_pairs)
    assert metrics["label/cost/human_usd_per_pair"] > 0
    assert json.loads((out / "labels.json").read_text()) == {"order_gap_counts": [], "failures": {}}


def test_labels_that_are_there_are_not_shown_to_the_labeler(command, out, labeler, data_files):
    command("label", f"--pairs={data_files.pairs}", *labeler)
    given = load_preferences(data_files.pairs).rows
    found = load_preferences(str(out / "labeled.jsonl")).rows
    assert [row.p_first for row in found] != [row.p_first for row in given]


def test_a_second_run_asks_for_nothing(command, labeler, data_files, small_pairs):
    command("label", f"--pairs={data_files.unlabeled}", *labeler)
    metrics = command("label", f"--pairs={data_files.unlabeled}", *labeler)
    assert (metrics["label/new"], metrics["label/reused"]) == (0, len(small_pairs))


def test_the_labeler_is_measured_on_gold_pairs_first(command, labeler, data_files, capsys):
    words = [f"--pairs={data_files.unlabeled}", "--gold.name=tiny_tldr/dev", "--gold.limit=6"]
    with pytest.warns(UserWarning, match="alignment with a language model's blind reading"):
        metrics = command("label", *words, *labeler, "--gate.min_alignment=1.0")
    assert 0 <= metrics["labeler/alignment"] <= 1
    assert "length" in capsys.readouterr().out


def test_a_poor_labeler_can_stop_the_run(command, out, labeler, data_files, capsys):
    words = [f"--pairs={data_files.unlabeled}", "--gold.name=tiny_tldr/dev", "--gold.limit=6"]
    command("label", *words, *labeler, "--gate.min_alignment=1.0", "--gate.action=stop", status=1)
    assert "alignment with a language model's blind reading" in capsys.readouterr().err
    assert not (out / "labeled.jsonl").exists()


def test_no_usable_label_is_an_error_that_says_why(command, out, labeler, tmp_path, capsys):
    beyond_the_model = "word " * 2000
    write_preferences(tmp_path / "long.jsonl", [Preference(beyond_the_model, "one", "two", "g")])
    command("label", f"--pairs={tmp_path}/long.jsonl", *labeler, status=1)
    assert "no usable label for 1 pairs: too_long 1" in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text())["label/new"] == 1


def test_the_temperature_can_be_fitted_on_gold_pairs(command, out, labeler, data_files):
    fitted = ["--fit_temperature_on.name=tiny_tldr/dev", "--fit_temperature_on.limit=24"]
    metrics = command("label", f"--pairs={data_files.unlabeled}", *labeler, *fitted)
    for row in load_preferences(str(out / "labeled.jsonl")).rows:
        odds = math.log(row.p_first / (1 - row.p_first))
        assert odds * metrics["label/temperature"] == pytest.approx(
            row.provenance.margin, rel=1e-4, abs=1e-9
        )


class FreeBackend:
    """Answers every call with the same verdict at a price, and counts."""

    asked = 0
    price = Price(1.0, 1.0)
    fingerprint = "free"

    def answer(self, calls, done):
        for place, _ in enumerate(calls):
            FreeBackend.asked += 1
            done(place, Response(logprobs=(-0.5, -1.5), read=9, written=1, cost_usd=0.25))


class Asking(ModelLabeler):
    """Asks once a pair."""

    strategy = "asking"
    prompt_version = "1"

    def judge(self, pairs, ask):
        replies = ask(
            [ChoiceRequest(Question(pair.prompt + pair.first), ("1", "2")) for pair in pairs]
        )
        return [Judgment(reply.logprobs[0] - reply.logprobs[1]) for reply in replies]


def test_a_job_stops_at_its_limit_and_goes_on(out, data_files, small_pairs, capsys):
    FreeBackend.asked = 0

    def run(**options):
        return label(data_files.unlabeled, str(out), Asking(FreeBackend(), 1.0), chunk=2, **options)

    count = len(small_pairs)
    with pytest.raises(OutOfBudget, match=f"4 of {count} pairs are labeled, 5 calls.*same command"):
        run(max_cost=1.25)  # the fifth call, in the middle of the third chunk, reaches it
    assert not (out / "labeled.jsonl").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["label/calls"], metrics["label/paid_usd"]) == (5, 1.25)
    assert "12 pairs to label: about 12 calls in 1 round(s)" in capsys.readouterr().err
    assert run() == 0
    assert len(load_preferences(str(out / "labeled.jsonl")).rows) == FreeBackend.asked == count
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["label/calls"], metrics["label/run_calls"]) == (count, count - 5)
    assert metrics["label/paid_usd"] == 0.25 * count
    assert metrics["label/run_cost_usd"] == 0.25 * (count - 5)
    assert run() == 0
    assert FreeBackend.asked == count


def test_a_limit_needs_a_labeler_that_can_be_counted(out, data_files):
    class Silent:
        fingerprint = "silent"

        def label(self, pairs):
            return pairs

    with pytest.raises(ValueError, match="leave max_cost out"):
        label(data_files.unlabeled, str(out), Silent(), max_cost=1.0)
