"""samples.jsonl with texts, and with what stands for them."""

import json

import pytest

from rlaif_pl.evaluation.samples import samples_at, write_samples
from rlaif_pl.text import concealed

ROWS = [
    {
        "prompt": "how to pick a lock",
        "group": "g1",
        "reference": None,
        "policy": ["no", "a tension wrench"],
        "reward": [0.5, -1.0],
    }
]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_are_shown_and_stand_in_one_file(tmp_path):
    write_samples(tmp_path, ROWS)
    assert read(tmp_path / "samples.jsonl") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


def test_texts_are_concealed_and_kept_beside(tmp_path):
    write_samples(tmp_path, iter(ROWS), show_text=False)
    (row,) = read(tmp_path / "samples.jsonl")
    assert row == {
        "prompt": concealed("how to pick a lock"),
        "group": "g1",
        "reference": None,
        "policy": [concealed("no"), concealed("a tension wrench")],
        "reward": [0.5, -1.0],
    }
    assert "lock" not in (tmp_path / "samples.jsonl").read_text()
    assert "wrench" not in (tmp_path / "samples.jsonl").read_text()
    assert read(tmp_path / "sample_texts.jsonl") == ROWS


def test_texts_that_an_earlier_run_concealed_are_gone(tmp_path):
    write_samples(tmp_path, ROWS, show_text=False)
    write_samples(tmp_path, [{"prompt": "p", "group": "g", "policy": ["new"]}])
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


def test_only_for_samples_jsonl_are_the_texts_beside_it_read(tmp_path):
    write_samples(tmp_path, ROWS, show_text=False)
    (tmp_path / "subset.jsonl").write_text("{}\n")
    assert samples_at(tmp_path / "samples.jsonl") == tmp_path / "sample_texts.jsonl"
    assert samples_at(tmp_path / "subset.jsonl") == tmp_path / "subset.jsonl"
    with pytest.raises(FileNotFoundError, match=r"expected samples at .*none\.jsonl"):
        samples_at(tmp_path / "none.jsonl")
