"""The examples run from beginning to end, over the tiny model and a small budget."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Return the function ``main`` of an example; it runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_rlaif_in_python(example, tiny_model_folder, tmp_path, capsys):
    metrics = example("rlaif_in_python")(str(tiny_model_folder), trunk_layers=2, limit=12, steps=2)
    said = capsys.readouterr().out
    assert "wins against SFT by the labeler: " in said
    assert said.count("SFT: ") == said.count("A2C: ") == 2
    assert metrics["a2c/n"] == 6
    assert metrics["a2c/kl"] != 0.0
    assert list(tmp_path.iterdir()) == []  # no file in between


def test_bring_your_own_reward(example, tiny_model_folder, tmp_path, capsys):
    before, after = example("bring_your_own_reward")(str(tiny_model_folder), 2, steps=2)
    assert before != after
    assert f"after: mean reward {after:.2f}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_chain_fits_on_a_page():
    text = (EXAMPLES / "rlaif_in_python.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
