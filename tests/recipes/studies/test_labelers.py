"""Prices against worked numbers."""

import json

import pytest

from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.recipes.studies.labelers import cost_results, read_rows, size_results

RECORD = {
    "name": "small one",
    "n": 10,
    "count_asked": 12,
    "alignment": 0.7,
    "alignment_low": 0.6,
    "alignment_high": 0.8,
    "gain_over_length": 0.05,
    "gain_over_length_low": -0.05,
    "gain_over_length_high": 0.15,
    "length_matched": None,
    "length_matched_low": None,
    "length_matched_high": None,
    "tokens_read_per_pair": 1660.0,
    "tokens_written_per_pair": 122.0,
    "human_usd_per_pair": 0.67,
    "human_usd_per_pair_low": 0.6,
    "human_usd_per_pair_high": 0.7,
    "seconds": 6.0,
}


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [RECORD, RECORD | {"name": "free", "seconds": 0.0}]}))
    return read_rows(file)


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "rows.json").write_text("{oops")
    with pytest.raises(ValueError, match=r"expected JSON in .*rows\.json, got something else"):
        read_rows(tmp_path / "rows.json")


def test_the_papers_price_of_a_label(rows):
    # appendix L: 2 x 830 tokens read at $0.03 a thousand and 2 x 61 written at $0.06: $0.057
    assert rows[0].usd(Price(30.0, 60.0)) == pytest.approx(1660 * 30e-6 + 122 * 60e-6)
    assert rows[0].usd(Price(30.0, 60.0)) == pytest.approx(0.0571, abs=1e-4)
    assert rows[0].seconds_per_pair == pytest.approx(0.5)


def test_cost_table(rows, tmp_path):
    results = cost_results(rows, {"GPT-4": Price(30.0, 60.0), "own": Price(0.0, 0.0)})
    page = results.page.markdown()
    assert "7,200" in page  # pairs an hour at half a second
    assert "$0.67 a pair" in page
    assert "| 12 |" in page  # 0.67 / 0.0571
    assert results.metrics["cost/small_one/usd_GPT-4"] == pytest.approx(0.05712)
    results.write(tmp_path)
    assert (tmp_path / "label_cost.png").is_file()


def test_every_price_is_drawn(rows):
    prices = {f"endpoint {n}": Price(n + 1.0, 1.0) for n in range(7)}
    legend = cost_results(rows, prices).figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [*prices, "person"]


def test_size_table_says_what_was_not_measured(rows, tmp_path):
    results = size_results(rows)
    assert "70.0 [60.0, 80.0]" in results.page.markdown()
    assert "–" in results.page.markdown()
    results.write(tmp_path)
    assert "free" in (tmp_path / "rows.csv").read_text()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="evaluate alignment"):
        read_rows(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="rows of labelers"):
        read_rows(tmp_path / "list.json")
