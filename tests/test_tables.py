"""One table, shown four ways, and back from JSON."""

import csv
import io
import json
import math

import pytest
from rich.console import Console
from rich.text import Text

from rlaif_pl.reporting.html import TEMPLATES
from rlaif_pl.statistics import Interval, empty_interval
from rlaif_pl.tables import NONE, PERCENT, POINTS, Column, Page, Table, csv_text

SHARE = Interval(0.5, 0.4, 0.6, 10)
GAIN = Interval(-0.031, math.nan, math.nan, 10)
TABLE = Table(
    "A <title> [x]",
    ["policy | name", Column("share, %", PERCENT), Column("gain", POINTS), Column("x", ".2f"), "n"],
    [["a | b <i>", SHARE, GAIN, 2 / 3, 7], ["[c]", empty_interval(), None, math.nan, ("1", 2)]],
    ["all", "", "", "", 9],
)
CELLS = [
    ["a | b <i>", "50.0 [40.0, 60.0]", "-3.1", "0.67", "7"],
    ["[c]", NONE, NONE, NONE, "1; 2"],
    ["all", "", "", "", "9"],
]


def printed(shown, width=80):
    console = Console(file=io.StringIO(), width=width)
    shown.render(console) if isinstance(shown, Page) else console.print(shown.rich())
    return console.file.getvalue()


def test_cells_are_written_as_their_columns_say():
    assert TABLE.cells() == CELLS


def test_markdown_has_names_to_the_left_and_bars_escaped():
    assert TABLE.markdown().splitlines() == [
        "**A <title> [x]**",
        "",
        "| policy \\| name | share, % | gain | x | n |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a \\| b <i> | 50.0 [40.0, 60.0] | -3.1 | 0.67 | 7 |",
        f"| [c] | {NONE} | {NONE} | {NONE} | 1; 2 |",
        "| all |  |  |  | 9 |",
    ]


def test_html_escapes_text_and_breaks_lines():
    page = TEMPLATES.get_template("table.html.j2").module.results_table(TABLE)
    assert "<caption>A &lt;title&gt; [x]</caption>" in page
    assert "<th>policy | name</th>" in page
    assert "<td>a | b &lt;i&gt;</td><td>50.0 [40.0, 60.0]</td>" in page
    assert "<td>1<br>2</td></tr>" in page
    assert page.count("<tr>") == 4


def test_a_terminal_shows_brackets_as_text_and_limits_below_in_wide_tables():
    text = printed(TABLE)
    assert "A <title> [x]" in text
    assert "[c]" in text
    lines = text.splitlines()
    (number,) = [n for n, line in enumerate(lines) if "50.0" in line]
    assert "[40.0, 60.0]" in lines[number + 1]
    narrow = Table("", ["a", Column("b", PERCENT)], [["x", SHARE]])
    assert "50.0 [40.0, 60.0]" in printed(narrow)
    assert "bold" not in printed(Table("", ["a"], [[Text("run", "bold")]]))


def test_a_page_comes_back_from_json_with_its_numbers():
    page = Page([TABLE], ["A [note]."], "plot.png", "a caption")
    read = Page.from_json(json.loads(json.dumps(page.to_json(), allow_nan=False)))
    assert read.tables[0].cells() == CELLS
    assert read.tables[0].rows[0][1] == SHARE
    assert read.tables[0].header == TABLE.header
    assert (read.notes, read.plot, read.caption) == (["A [note]."], "plot.png", "a caption")
    assert "![a caption](plot.png)" in page.markdown()
    assert "- A [note]." in page.markdown()
    assert "A [note]." in printed(page)


@pytest.mark.parametrize(
    "content", [[], {}, {"tables": [{}], "notes": [], "plot": "", "caption": ""}, "x"]
)
def test_another_file_is_refused(content):
    with pytest.raises(ValueError, match="expected tables, notes, plot and caption"):
        Page.from_json(content)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"expected rows of 2 cells, got others in \[2\]"):
        Table("", ["a", "b"], [["x", 1], ["y"]])


def test_a_carriage_return_in_a_cell_does_not_end_its_row():
    text = csv_text([{"text": "a\rb", "n": 1}, {"text": "c", "n": 2}])
    assert list(csv.DictReader(io.StringIO(text, newline=""))) == [
        {"text": "a\rb", "n": "1"},
        {"text": "c", "n": "2"},
    ]


def test_csv_has_the_columns_of_all_records_or_those_named():
    rows = [{"b": 1, "a": None}, {"a": 2.5, "c": "x"}]
    assert csv_text(rows) == "b,a,c\n1,,\n,2.5,x\n"
    assert csv_text(rows, ["a", "b", "c", "d"], header=False) == ",1,,\n2.5,,x,\n"
    assert csv_text([], ["a", "b"]) == "a,b\n"
