import json

import pytest

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.recipes.studies.sources import located, write_study


def comparison(post, confidence, worker="w"):
    return {
        "info": {"id": post, "post": f"{post} " + "word " * int(post[-1]), "title": "t"},
        "summaries": [{"text": "one", "policy": "a"}, {"text": "two", "policy": "b"}],
        "choice": 0 if confidence < 5 else 1,
        "worker": worker,
        "extra": {"confidence": confidence},
    }


@pytest.fixture
def file(tmp_path):
    rows = [comparison("p1", 1), comparison("p2", 8), comparison("p3", 4), comparison("p9", 9)]
    rows.append(comparison("p2", 3, "another"))
    path = tmp_path / "there" / "comparisons.json"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_and_subsets_of_the_votes(file, tmp_path):
    votes = {"strong": [1, 2, 8, 9], "weak": [3, 4, 6, 7]}
    counts = write_study(DataSource(str(file)), tmp_path / "out", votes, max_words=6, limit=None)
    assert counts == {"study/pairs": 3, "study/posts": 3, "study/strong": 2, "study/weak": 2}
    rows = {name: load_preferences(str(tmp_path / "out" / f"{name}.jsonl")).rows for name in votes}
    # two workers split over p2: the strong vote is for the second, the weak one for the first
    assert {row.group: row.p_first for row in rows["strong"]} == {"p1": 1.0, "p2": 0.0}
    assert {row.group: row.p_first for row in rows["weak"]} == {"p2": 1.0, "p3": 1.0}
    both = load_preferences(str(tmp_path / "out" / "pairs.jsonl")).rows
    assert {row.group: row.p_first for row in both} == {"p1": 1.0, "p2": 0.5, "p3": 1.0}


def test_too_short_a_limit_is_named(file, tmp_path):
    with pytest.raises(ValueError, match="raise max_words"):
        write_study(DataSource(str(file)), tmp_path / "out", {}, max_words=1, limit=None)


def test_data_is_looked_for_where_the_variable_says(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLAIF_PL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="RLAIF_PL_DATA"):
        located("data/comparisons.json")
    monkeypatch.setenv("RLAIF_PL_DATA", str(file.parent))
    assert located("data/comparisons.json").name == str(file)
    assert located("tiny_tldr/dev").name == "tiny_tldr/dev"
    with pytest.raises(FileNotFoundError, match="gone.json"):
        located("data/gone.json")
