"""Tasks out, readings in, by file: blind, by text, all or nothing."""

import json
import sys

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.evaluation.human.store import FILE, RatingStore


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def exported(samples, out, tmp_path):
    """Return a file of tasks for the rater "reader"."""
    path = tmp_path / "tasks.jsonl"
    words = ["rate", "--samples", str(samples), "--out", str(out), "--rater", "reader"]
    assert cli.main([*words, "--export_tasks", str(path)]) == 0
    return path


def take(out, path, *words):
    return cli.main(["rate", "--out", str(out), "--import_ratings", str(path), *words])


def ratings(out):
    with RatingStore(out / FILE) as store:
        return store.ratings(), store.tasks()


def filled(rows):
    """Return rows ranked by the length of their texts, the longest first."""
    done = []
    for row in rows:
        order = sorted(row["texts"], key=len, reverse=True)
        ranks = [order.index(text) + 1 for text in row["texts"]]
        said = {"ranks": ranks, "acceptable": [rank < 3 for rank in ranks], "kind": "model"}
        done.append(row | said)
    return done


def test_exported_tasks_are_blind(exported):
    rows = rows_of(exported)
    assert len(rows) == 12
    assert set(rows[0]) == {
        "task", "prompt", "texts", "rater", "kind", "ranks", "acceptable", "reason",
    }  # fmt: skip
    assert not [name for name in ("zebra", "yacht", "xenon") if name in exported.read_text()]
    firsts = {row["texts"][0].split()[0] for row in rows}
    assert firsts == {"one", "two", "three"}  # in an order drawn for each


def test_a_file_needs_no_server(samples, out, tmp_path, monkeypatch):
    for name in ("fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("app", "server"):
        monkeypatch.delitem(sys.modules, f"rlaif_pl.evaluation.human.{name}", raising=False)
    words = ["rate", "--samples", str(samples), "--out", str(out)]
    assert cli.main(words) == 1  # the page needs one
    path = tmp_path / "tasks.jsonl"
    assert cli.main([*words, "--rater", "x", "--export_tasks", str(path)]) == 0
    write(path, filled(rows_of(path)))
    assert take(out, path) == 0
    assert len(ratings(out)[0]) == 12


def test_readings_come_back_by_policy(exported, out, capsys):
    write(exported, filled(rows_of(exported)))
    assert take(out, exported) == 0
    assert "12 ratings taken" in capsys.readouterr().out
    given, tasks = ratings(out)
    assert len(given) == 12
    for rating in given:
        by_policy = {
            item.policies[0]: (rating.ranks[n], rating.acceptable[n])
            for n, item in enumerate(tasks[rating.task].items)
        }
        assert by_policy["xenon"] == (1, True)  # "three n" is the longest
        assert by_policy["yacht"] == (3, False)
        assert (rating.kind, rating.rater) == ("model", "reader")
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["rating/done"], metrics["rating/models/done"]) == (0, 12)
    # once more: nothing is new, and nothing is left to export
    assert take(out, exported) == 0
    assert "0 ratings taken" in capsys.readouterr().out
    again = exported.with_name("again.jsonl")
    words = ["rate", "--out", str(out), "--rater", "Reader", "--export_tasks", str(again)]
    assert cli.main(words) == 0
    assert again.read_text() == ""


def test_what_models_said_goes_through_the_report(exported, out, capsys):
    write(exported, filled(rows_of(exported)))
    assert take(out, exported) == 0
    assert cli.main(["evaluate", "ratings", "--ratings", str(out), "--out", str(out)]) == 0
    assert "36 by language models (source: reading)" in capsys.readouterr().out
    votes = rows_of(out / "preferences.jsonl")
    assert {vote["source"] for vote in votes} == {"reading"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["rating/models/acceptable/yacht"] == 0
    assert metrics["rating/models/acceptable/zebra_minus_yacht"] == 1
    assert cli.main(["report", "--run_dir", str(out.parent)]) == 0
    page = (out.parent / "report.html").read_text()
    assert "Policies ranked blind by language models" in page
    assert "Acceptable texts, by language models" in page
    assert "ranked blind by people" not in page


def test_the_order_of_the_texts_in_the_file_is_what_counts(exported, out):
    row = rows_of(exported)[0]
    texts = sorted(row["texts"])
    turned = {"prompt": row["prompt"], "texts": texts, "rater": "ada", "kind": "person"}
    assert take(out, write(exported, [turned | {"ranks": [3, 1, 2], "seconds": 8}])) == 0
    (rating,), tasks = ratings(out)
    items = tasks[rating.task].items
    assert [items[n].text for n in rating.shown] == texts
    assert [rating.ranks[n] for n in rating.shown] == [3, 1, 2]
    assert (rating.rater, rating.kind, rating.seconds) == ("ada", "person", 8)
    assert rating.acceptable is None


def test_rows_that_are_not_filled_in_wait(exported, out, capsys):
    rows = rows_of(exported)
    half = [*filled(rows[:2]), rows[2] | {"reason": "gibberish", "kind": "model"}, *rows[3:]]
    assert take(out, write(exported, half)) == 0
    assert "3 ratings taken" in capsys.readouterr().out
    given, _ = ratings(out)
    assert (given[2].ranks, given[2].reason) == (None, "gibberish")
    assert take(out, write(exported, [*half[:3], *filled(rows[3:])])) == 0
    said = capsys.readouterr().out
    assert "9 ratings taken" in said
    assert "3 were here before, 0 rows are not filled in" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": None}, "expected 'kind' as docs/rating.md has it, got None (Field required)"),
        ({"kind": "robot"}, "expected 'kind' as docs/rating.md has it, got 'robot' (Input"),
        ({"rater": " "}, "expected 'rater' as docs/rating.md has it, got ' ' (String"),
        ({"rater": "x" * 61}, "expected 'rater' as"),
        ({"ranks": [1, 2]}, "expected ranks 1 to 3"),
        ({"ranks": [1, 1, 3]}, "expected ranks 1 to 3, each once"),
        ({"ranks": [True, 2, 3]}, "expected 'ranks' as docs/rating.md has it, got a list of 3"),
        ({"acceptable": [True, True]}, "expected acceptable to be null or 3 values"),
        ({"acceptable": ["yes", "no", "no"]}, "expected 'acceptable' as"),
        ({"texts": "x, y"}, "expected 'texts' as docs/rating.md has it, got 'x, y'"),
        ({"texts": ["x", "y", "z"]}, "expected 'task' or 'prompt', and 'texts', of one task"),
        ({"task": "0000"}, "expected 'task' or 'prompt', and 'texts', of one task"),
        ({"seconds": -1}, "expected 'seconds' as docs/rating.md has it, got -1 (Input"),
        ({"reason": "x" * 201}, "expected 'reason'"),
    ],
)
def test_a_file_is_taken_whole_or_not_at_all(change, said, exported, out, capsys):
    rows = filled(rows_of(exported))
    rows[4] |= change
    assert take(out, write(exported, rows)) == 1
    assert f"tasks.jsonl:5: {said}" in capsys.readouterr().err
    assert ratings(out)[0] == []


def test_another_rating_of_the_same_prompt_is_refused(exported, out, capsys):
    rows = filled(rows_of(exported))
    changed = rows[0] | {"ranks": rows[0]["ranks"][::-1]}
    assert take(out, write(exported, [*rows, changed])) == 1
    assert "tasks.jsonl:13: expected no other rating" in capsys.readouterr().err
    assert ratings(out)[0] == []


def test_ties_are_taken_where_they_are_allowed(exported, out):
    rows = filled(rows_of(exported)[:1])
    write(exported, [rows[0] | {"ranks": [2, 1, 2]}])
    assert take(out, exported) == 1
    assert take(out, exported, "--ties", "true") == 0
    (rating,), _ = ratings(out)
    assert [rating.ranks[n] for n in rating.shown] == [2, 1, 2]


def test_tasks_are_exported_for_somebody(samples, out, tmp_path, capsys):
    words = ["rate", "--samples", str(samples), "--out", str(out)]
    assert cli.main([*words, "--export_tasks", str(tmp_path / "t.jsonl")]) == 1
    assert "expected --rater to be a name" in capsys.readouterr().err
    assert take(out, tmp_path / "gone.jsonl") == 1
    assert "--export_tasks FILE --rater NAME" in capsys.readouterr().err
