"""``evaluate alignment`` with tables and filters, on a tiny model."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands.alignment import gold_pairs
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.agreement.paper_tables import PaperTable


@pytest.fixture
def few():
    """Options that keep a table small."""
    return ["--data=tiny_tldr/dev", "--data.limit=4", "--draws=50"]


def test_a_table_of_labelers_of_ones_own(command, out, tmp_path, few, tiny_model_folder, capsys):
    labeler = {
        "class_path": "rlaif_pl.labeling.LikelihoodLabeler",
        "init_args": {"backend": str(tiny_model_folder)},
    }
    weighted = {**labeler, "init_args": {**labeler["init_args"], "pmi_weight": 0.5}}
    config = tmp_path / "rows.yaml"
    prices = {"read": 1.0, "written": 2.0}
    config.write_text(
        yaml.safe_dump({"labelers": {"plain": labeler, "with PMI": weighted}, "prices": prices})
    )
    metrics = command("evaluate alignment", f"--config={config}", *few)
    assert metrics["alignment/pairs"] == metrics["alignment/common"] == 4
    assert 0 <= metrics["alignment/with_pmi/alignment"] <= 1
    assert metrics["alignment/plain/ai_usd_per_pair"] > 0
    assert "alignment/kappa/plain/gold" in metrics or metrics["alignment/plain/alignment"] in (
        0,
        1,
    )
    assert "with PMI" in capsys.readouterr().out
    assert "| with PMI |" in (out / "table.md").read_text()
    rows = json.loads((out / "rows.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["plain", "with PMI"]
    calls = tmp_path / "calls.parquet"
    words = ["export", f"--replies={out / 'replies.sqlite'}", f"--out={calls}"]
    assert cli.main(words) == 0
    # Four pairs: two reconstructions each, shared by both rows, and four calls of PMI's two terms.
    assert pq.read_table(calls).num_rows <= 4 * 6
    assert cli.main([*words, "--preferences=x.jsonl"]) == 1


@pytest.mark.parametrize(
    ("table", "rows"), [("prompts", 4), ("self_consistency", 3), ("formats", 3), ("sizes", 2)]
)
def test_the_papers_tables_run_on_any_model(command, few, tiny_model_folder, table, rows):
    words = [f"--table.backend={tiny_model_folder}", "--table.asking.max_shots=0"]
    words += ["--table.asking.samples=[2]", "--table.asking.temperatures=[0.5,1.0]"]
    words += ["--table.asking.max_rationale_tokens=4", "--data.limit=2"]
    if table == "sizes":
        words.append(f'--table.sizes={{"a": "{tiny_model_folder}", "b": "{tiny_model_folder}"}}')
    metrics = command("evaluate alignment", *few, f"--table.rows={table}", *words)
    asked = [key for key in metrics if key.endswith("/count_asked")]
    assert len(asked) == rows
    assert all(metrics[key] == 2 for key in asked)


def test_an_ensemble_is_compared_with_its_members(command, few, tmp_path, tiny_model_folder):
    member = {
        "class_path": "rlaif_pl.labeling.LikelihoodLabeler",
        "init_args": {"backend": str(tiny_model_folder)},
    }
    summed = {**member, "init_args": {**member["init_args"], "normalize": "sum"}}
    ensemble = {
        "class_path": "rlaif_pl.labeling.EnsembleLabeler",
        "init_args": {"labelers": [member, summed]},
    }
    config = tmp_path / "ensemble.yaml"
    config.write_text(yaml.safe_dump({"labeler": ensemble, "gate": {"action": "off"}}))
    metrics = command("evaluate alignment", f"--config={config}", *few)
    assert metrics["labeler/alignment"] == metrics["alignment/ensemble/alignment"]
    # both terms of a pair have one prompt, so sums and means per token favor the same side
    assert metrics["alignment/member_1/alignment"] == metrics["alignment/member_2/alignment"]


def test_the_prompt_table_is_the_papers(tiny_model_folder):
    rows = PaperTable("prompts", str(tiny_model_folder)).labelers()
    assert list(rows) == [
        "base, 0-shot", "base, 1-shot", "base, 2-shot", "base + CoT, 0-shot",
        "detailed, 0-shot", "detailed, 1-shot", "detailed, 2-shot", "detailed, 8-shot",
        "detailed + CoT, 0-shot", "detailed + CoT, 1-shot", "detailed + CoT, 2-shot",
    ]  # fmt: skip
    assert len({labeler.fingerprint for labeler in rows.values()}) == 11
    consistency = PaperTable("self_consistency", str(tiny_model_folder)).labelers()
    assert len(consistency) == 1 + 2 * 4
    with pytest.raises(ValueError, match="name the models"):
        PaperTable("sizes", str(tiny_model_folder)).labelers()


def test_short_prompts_are_chosen_before_the_limit():
    everything = load_preferences(DataSource("tiny_tldr/dev")).rows
    words = sorted(len(pair.prompt.split()) for pair in everything)
    limit = words[len(words) // 2]
    short = [pair for pair in everything if len(pair.prompt.split()) <= limit]
    assert gold_pairs(DataSource("tiny_tldr/dev", limit=5), limit) == short[:5]
    assert gold_pairs(DataSource("tiny_tldr/dev", limit=3)) == everything[:3]
    with pytest.raises(ValueError, match="at most 1 words"):
        gold_pairs("tiny_tldr/dev", max_words=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--table.backend=x"], "expected table.backend only with table.rows"),
        (
            ["--table.sizes={a: x}", "--table.asking.max_shots=1"],
            "table.sizes, table.asking only with",
        ),
        (["--table.rows=formats", "--labeler=pairwise"], "expected labeler without table.rows"),
        (["--labelers={a: pairwise}", "--labeler=score"], "name it under labelers"),
    ],
)
def test_options_that_would_say_nothing_are_refused(few, words, said, capsys):
    assert cli.main(["evaluate", "alignment", *few, *words]) == 1
    assert said in capsys.readouterr().err


def test_a_gate_on_failures_is_an_option(few, tiny_model_folder, capsys):
    words = [
        "evaluate",
        "alignment",
        *few,
        "--gate.action=stop",
        "--gate.min_alignment=0",
        "--gate.min_gain=null",
    ]
    words += ["--labeler=rlaif_pl.labeling.LikelihoodLabeler"]
    words += [f"--labeler.backend={tiny_model_folder}"]
    assert cli.main(words) == 0
    assert cli.main([*words, "--gate.confident=true", "--gate.min_alignment=0.99"]) == 1
    assert "all of its interval" in capsys.readouterr().err
