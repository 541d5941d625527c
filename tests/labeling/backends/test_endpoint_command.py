"""The whole command with an endpoint in its config."""

import json
import runpy
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.data.sources import load_preferences

EXAMPLES = Path(__file__).parents[3] / "examples"
CONFIG = """
labeler:
  class_path: rlaif_pl.labeling.PairwiseLabeler
  init_args:
    preamble: base
    backend:
      class_path: rlaif_pl.labeling.EndpointBackend
      init_args:
        base_url: {url}
        model: tiny
        concurrency: 4
        prices:
          tiny: {{read: 2.0, written: 4.0}}
        extra_body: {{top_p: 1.0}}
"""


def test_a_config_names_server_and_prices(serve, data_files, small_pairs, tmp_path, capsys):
    server = serve()
    config, out = tmp_path / "label.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(url=server.url))
    words = ["label", "--config", str(config), "--pairs", data_files.unlabeled, "--out", str(out)]
    assert cli.main([*words, "--max_cost", "0.000001"]) == 1
    error = capsys.readouterr().err
    assert "USD (from the prompts of 12 pairs)" in error
    assert "0 of 12 pairs are labeled" in error
    assert cli.main(words) == 0
    rows = load_preferences(str(out / "labeled.jsonl")).rows
    assert len(rows) == len(small_pairs)
    assert server.record.served.total() == 2 * len(small_pairs)  # both orders, each once
    assert server.record.requests[0]["top_p"] == 1.0
    metrics = json.loads((out / "metrics.json").read_text())
    read = sum(len(prompt.split()) for prompt in server.record.served)
    assert metrics["label/paid_usd"] == pytest.approx((2 * read + 4 * 24) / 1e6)
    labels = sum(row.provenance.cost_usd for row in rows)
    assert labels == pytest.approx(metrics["label/paid_usd"])


def test_the_example_labels_through_a_server(serve, data_files, small_pairs, tmp_path, capsys):
    server = serve()
    example = runpy.run_path(str(EXAMPLES / "label_with_vllm.py"))["main"]
    given = server.url, "tiny", data_files.unlabeled, 5, str(tmp_path / "labels.sqlite")
    labeled = example(*given)
    assert server.record.served.total() == 10  # both orders
    assert [row.prompt for row in labeled] == [pair.prompt for pair in small_pairs[:5]]
    assert "5 of 5 labeled" in capsys.readouterr().out
    assert example(*given) == labeled
    assert server.record.served.total() == 10  # kept
