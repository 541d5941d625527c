import json

import pytest
import torch
from datasets import load_dataset

from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, load_policy
from rlaif_pl.text import Template
from rlaif_pl.types import Preference

ROWS = [
    Preference("p0", "a", "b", "g0", 0.9),
    Preference("p1", "a", "b", "g1", 0.25),
    Preference("p2", "a", "b", "g2", 0.5),
    Preference("p3", "a", "b", "g3"),
]


@pytest.fixture
def pairs(tmp_path):
    write_preferences(tmp_path / "pairs.jsonl", ROWS)
    return str(tmp_path / "pairs.jsonl")


def test_the_likelier_side_is_chosen_and_ties_are_left_out(pairs, tmp_path, capsys):
    out = tmp_path / "trl.jsonl"
    assert cli.main(["export", "--preferences", pairs, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [
        {"prompt": "p0", "chosen": "a", "rejected": "b", "p_chosen": 0.9},
        {"prompt": "p1", "chosen": "b", "rejected": "a", "p_chosen": 0.75},
    ]
    assert f"2 pairs written to {out}, 2 left out (tied 1, unlabeled 1)" in capsys.readouterr().out


def test_close_calls_can_be_left_out(pairs, tmp_path):
    out = tmp_path / "trl.jsonl"
    assert cli.main(["export", f"--preferences={pairs}", f"--out={out}", "--min_margin=0.3"]) == 0
    assert len(out.read_text().splitlines()) == 1


def test_datasets_reads_what_was_written(pairs, tmp_path):
    out = tmp_path / "trl.jsonl"
    cli.main(["export", "--preferences", pairs, "--out", str(out)])
    table = load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.column_names == ["prompt", "chosen", "rejected", "p_chosen"]
    assert table["chosen"][:] == ["a", "b"]


def test_a_folder_gets_parquet_and_a_card_with_what_the_job_measured(pairs, tmp_path):
    (tmp_path / "metrics.json").write_text('{"label/failed_too_long": 4, "labeler/alignment": 0.7}')
    out = tmp_path / "mine"
    assert cli.main(["export", f"--preferences={pairs}", f"--out={out}", "--layout=soft"]) == 0
    table = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["p_first"][:] == [0.9, 0.25, 0.5]
    card = (out / "README.md").read_text()
    assert "# mine" in card
    assert "asked for in vain: too_long | 4" in card
    assert "70.0 %" in card


def test_what_was_exported_can_be_labeled_data_again(pairs, tmp_path):
    out = tmp_path / "soft.parquet"
    cli.main(["export", f"--preferences={pairs}", f"--out={out}", "--layout=soft"])
    again = load_preferences(DataSource(str(out))).rows
    assert [(row.prompt, row.p_first) for row in again] == [("p0", 0.9), ("p1", 0.25), ("p2", 0.5)]


def test_settings_that_mean_nothing_are_refused(pairs, tmp_path, capsys):
    words = ["export", f"--preferences={pairs}"]
    assert cli.main([*words, f"--out={tmp_path / 'x.csv'}"]) == 1
    assert ".jsonl or .parquet" in capsys.readouterr().err
    assert cli.main([*words, f"--out={tmp_path / 'x'}", "--min_margin=0.7"]) == 1
    assert cli.main([*words, f"--out={tmp_path / 'x'}", "--layout=soft", "--with_margin=true"]) == 1
    assert cli.main([*words, f"--out={tmp_path / 'x'}", "--metrics=none.json"]) == 1


def test_an_export_without_a_pair_is_an_error(tmp_path, capsys):
    write_preferences(tmp_path / "bare.jsonl", [Preference("p", "a", "b", "g")])
    words = ["export", f"--preferences={tmp_path / 'bare.jsonl'}", f"--out={tmp_path / 'x.jsonl'}"]
    assert cli.main(words) == 1
    assert "none of 1 is left (unlabeled 1); label them first" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


def test_what_loading_left_out_is_counted(tmp_path, capsys):
    row = {"prompt": "p", "first": "a", "second": "b", "p_first": 1.0, "group": "g"}
    rows = [row, row | {"second": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    out = str(tmp_path / "o.jsonl")
    assert cli.main(["export", "--preferences", str(tmp_path / "a.jsonl"), "--out", out]) == 0
    assert "1 left out (identical responses 1)" in capsys.readouterr().out


def test_a_runs_adapters_are_written_alone(tiny_model_folder, tmp_path):
    backbone = {"name": str(tiny_model_folder), "trunk_layers": 2}
    arguments = {
        "backbone": backbone,
        "lora": {"r": 2, "alpha": 4},
        "value_network": "shared_trunk",
    }
    actor = ActorCritic(BackboneOptions(**backbone), lora=Lora(2, 4), value_network="shared_trunk")
    for parameter in actor.policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    trained = {f"actor.{n}": p for n, p in actor.named_parameters() if p.requires_grad}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(
        {"state_dict": trained, "pytorch-lightning_version": "2.6.6"},
        tmp_path / "run" / "checkpoints" / "last.ckpt",
    )
    node = {"class_path": "rlaif_pl.models.ActorCritic", "init_args": arguments}
    config = {"model": {"class_path": "x", "init_args": {"actor": node}}}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    out = str(tmp_path / "adapter")
    assert cli.main(["export", f"--run={tmp_path / 'run'}", f"--out={out}"]) == 0
    read = load_policy(BackboneOptions(out), Template())
    rows = [[5, 6, 7, 8]]
    batch = assemble(rows, [[9, 10, 11]], read.pad)
    expected = actor.policy.logprobs(batch)
    torch.testing.assert_close(read.logprobs(batch), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(actor.reference.logprobs(batch), expected, atol=1e-2)


def test_one_thing_is_exported_at_a_time(pairs, tmp_path, capsys):
    assert cli.main(["export", f"--preferences={pairs}", f"--run={tmp_path}", "--out=x"]) == 1
    assert "expected one of preferences, replies and run" in capsys.readouterr().err
