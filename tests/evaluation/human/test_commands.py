"""``rate`` is killed and goes on; ``evaluate ratings`` says what came of it."""

import builtins
import csv
import importlib
import json
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.evaluation.pairs import JudgedPair, comparison_key, write_verdicts
from rlaif_pl.reporting import write_report


def rate(server, rater, texts_to_ranks):
    """Rank everything there is by a rule; returns the number of rankings."""
    said, count = server.post("next", rater=rater), 0
    while said["task"]:
        task = said["task"]
        body = {"task": task["id"], "submission": f"{rater}{count}", "seconds": 2.0}
        said = server.post("rating", rater=rater, ranks=texts_to_ranks(task["texts"]), **body)
        count += 1
    return count


def by_length(texts):
    """Rank the longest first."""
    order = sorted(texts, key=len, reverse=True)
    return [order.index(text) + 1 for text in texts]


@pytest.fixture
def verdicts(samples):
    """Leave a judge's verdicts beside the samples: always the first policy."""
    pairs = []
    for a, b in (("zebra", "yacht"), ("zebra", "xenon"), ("yacht", "xenon")):
        words = {"zebra": "one {}.", "yacht": "two {}", "xenon": "three {}"}
        keys = [
            comparison_key(f"prompt {n}", words[a].format(n), words[b].format(n)) for n in range(12)
        ]
        pairs.append(JudgedPair("first", a, b, dict.fromkeys(keys, 1.0), ["zebra"]))
    write_verdicts(samples.parent, pairs)


def test_kill_resume_and_report(start, samples, verdicts, tmp_path, capsys):
    out = tmp_path / "run" / "people"
    words = ("--samples", str(samples), "--out", str(out), "--raters_per_prompt", "2")
    first = start(*words)
    seen = first.post("next", rater="ann")["task"]
    body = {"task": seen["id"], "submission": "s", "ranks": by_length(seen["texts"])}
    after = first.post("rating", rater="ann", **body)
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    # the same command; then without the samples
    second = start(*words)
    assert second.post("next", rater="ann")["task"] == after["task"]
    assert second.post("rating", rater="ann", **body)["is_new"] is False
    assert second.stop(signal.SIGINT) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == {"rating/done": 1, "rating/wanted": 24}
    third = start("--out", str(out), "--raters_per_prompt", "2")
    assert rate(third, "ann", by_length) == 11
    assert rate(third, "bo", by_length) == 12
    assert third.post("next", rater="cy")["state"] == "done"
    third.stop(signal.SIGINT)

    assert cli.main(["evaluate", "ratings", "--ratings", str(out), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "36 preferences" in said
    metrics = json.loads((out / "metrics.json").read_text())
    # "three 1" is longer than "one 1." is longer than "two 1", and so on to 11
    assert metrics["rating/best/xenon"] == 1
    assert metrics["rating/zebra_vs_yacht"] == 1
    assert metrics["rating/zebra_vs_xenon"] == 0
    assert metrics["rating/first/zebra_vs_xenon"] == 1
    assert metrics["rating/agreement/first"] == pytest.approx(1 / 3)
    assert metrics["rating/agreement/the_longer_one_wins"] == 1
    assert metrics["rating/kendall_w"] == metrics["rating/rank_correlation"] == 1
    rows = load_preferences(str(out / "preferences.jsonl")).rows
    assert {pair.group for pair in rows} == {f"g{n}" for n in range(12)}
    assert all(p.p_first == float(len(p.first) > len(p.second)) for p in rows)
    with (out / "ratings.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 72
    # a run's page shows them, though no stage made them
    page = write_report(out.parent).read_text()
    assert "Policies ranked blind by people" in page
    assert "not timed" in page


def test_the_reader_of_the_docs_reads_all_there_is(start, samples, tmp_path, capsys):
    out = tmp_path / "run" / "read"
    words = ("--samples", str(samples), "--out", str(out), "--raters_per_prompt", "1")
    server = start(*words)
    text = (Path(__file__).parents[3] / "docs" / "rating.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    code = code.replace("http://127.0.0.1:8000", server.link.rstrip("/"))
    exec(code, {"read": lambda prompt, texts: (by_length(texts), [len(t) > 5 for t in texts])})
    assert rate(server, "ann", by_length) == 12  # the model left people's for people
    server.stop(signal.SIGINT)
    assert cli.main(["evaluate", "ratings", "--ratings", str(out), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "36 by people (source: human), 36 by language models (source: reading)" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["rating/models/rankings"] == metrics["rating/rankings"] == 12
    assert metrics["rating/models/acceptable/xenon"] == 1
    assert "rating/acceptable/xenon" not in metrics  # the person said nothing of it
    assert metrics["rating/kappa_preferences/person_1_and_language_model_1"] == 1
    votes = [json.loads(line) for line in (out / "preferences.jsonl").read_text().splitlines()]
    assert Counter(vote["source"] for vote in votes) == {"human": 36, "reading": 36}
    page = write_report(out.parent).read_text()
    title = re.findall(r"Policies ranked blind by ([a-z ]+)", page)[0]
    assert sorted(title.strip().split(" and ")) == ["language models", "people"]


def test_other_samples_need_another_folder(start, samples, tmp_path, capsys):
    out = str(tmp_path / "out")
    start("--samples", str(samples), "--out", out).stop()
    assert cli.main(["rate", "--samples", str(samples), "--out", out, "--limit", "3"]) == 1
    assert "got other samples" in capsys.readouterr().err


def test_a_new_folder_needs_samples(tmp_path, capsys):
    assert cli.main(["rate", "--out", str(tmp_path / "new")]) == 1
    assert "expected --samples for the new file" in capsys.readouterr().err


def test_no_ratings_name_the_command_that_collects_them(tmp_path, capsys):
    assert cli.main(["evaluate", "ratings", "--ratings", str(tmp_path), "--out", "x"]) == 1
    assert "python -m rlaif_pl rate" in capsys.readouterr().err


def test_missing_libraries_are_named_with_the_command_that_installs_them(
    tmp_path, monkeypatch, capsys
):
    real = builtins.__import__

    def without_uvicorn(name, *args, **options):
        if name == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'")
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "rlaif_pl.evaluation.human.app", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_uvicorn)
    assert cli.main(["rate", "--out", str(tmp_path)]) == 1
    assert "pip install 'rlaif_pl[rating]'" in capsys.readouterr().err
    monkeypatch.undo()
    importlib.import_module("rlaif_pl.evaluation.human.app")


def test_a_port_in_use_is_named(samples, tmp_path, start, capsys):
    port = start("--samples", str(samples), "--out", str(tmp_path / "a")).link.split(":")[2][:-1]
    words = ["rate", "--samples", str(samples), "--out", str(tmp_path / "b"), "--page.port", port]
    assert cli.main(words) == 1
    assert f"port {port}" in capsys.readouterr().err
