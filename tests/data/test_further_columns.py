"""Columns of a prompt's row beside text, group and reference: kept, the same from everywhere."""

import datetime
import decimal
import json
import math
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlaif_pl.data.disk_rows import BLOCK, DiskRows
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_prompts
from rlaif_pl.types import Prompt

TESTS = [["1 2", "3"], ["4 5", "9"]]
ROWS = [
    {"answer": "3", "tests": TESTS, "level": 1, "hints": {"é": None}},
    {"answer": None, "tests": [], "level": 2, "hints": {"é": "x"}},
]
PROMPTS = [Prompt(f"p{n}", f"g{n}", "r" if n else None, row) for n, row in enumerate(ROWS)]


def test_they_come_back_from_files_and_memory(tmp_path):
    write_prompts(tmp_path / "written.jsonl", PROMPTS)
    assert load_prompts(str(tmp_path / "written.jsonl")) == PROMPTS
    flat = [
        {"text": p.text, "group": p.group, "reference": p.reference} | p.columns for p in PROMPTS
    ]
    for form in (PROMPTS, flat, datasets.Dataset.from_list(flat)):
        assert load_prompts(form) == load_demonstrations(form) == PROMPTS
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "flat.parquet")
    for name in ("flat.jsonl", "flat.parquet"):
        assert load_prompts(str(tmp_path / name)) == PROMPTS


SAID = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
LAYOUTS = [
    ({"prompt": "p", "label": 1}, None, {"label": 1}),
    ({"question": "p", "prompt": 7}, {"prompt": "question"}, {"prompt": 7}),
    ({"prompt": "p", "gold": "c"}, {"reference": "gold"}, {}),
    ({"prompt": "p", "completion": "c", "label": 1}, None, {"label": 1}),
    ({"prompt": "p", "chosen": "c", "rejected": "d"}, None, {}),
    ({"messages": SAID}, None, {}),
]


@pytest.mark.parametrize(("row", "names", "kept"), LAYOUTS)
def test_in_other_layouts_what_is_read_as_text_is_no_column(tmp_path, row, names, kept):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row | {"answer": 4}))
    (prompt,) = load_prompts(DataSource(str(file), columns=names))
    assert prompt.text == "p"
    assert prompt.columns == kept | {"answer": 4}


def test_an_empty_cell_is_null(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,answer\np,4\nq,\n")
    found = load_prompts(str(tmp_path / "rows.csv"))
    assert [prompt.columns for prompt in found] == [{"answer": "4"}, {"answer": None}]


def test_values_are_as_json_has_them():
    row = {
        "gap": math.nan,
        "pair": (1, math.inf),
        "day": datetime.date(2024, 5, 1),
        "price": decimal.Decimal("1.50"),
        "vector": np.array([1.0, 2.0]),
        "half": ("\ud83d",),
        "image": b"\x89PNG",
        "object": object(),
    }
    (prompt,) = load_prompts([{"text": "p"} | row])
    kept = {"gap": None, "pair": [1, None], "day": "2024-05-01", "price": "1.50"}
    assert prompt.columns == kept | {"vector": [1.0, 2.0], "half": ["\ufffd"]}
    write = load_prompts([prompt])
    assert write == [prompt]


def test_a_prompt_has_a_hash_and_lies_on_disk_like_any_other():
    rows = DiskRows(Prompt(f"p{n}", "g", None, {"tests": TESTS, "n": n}) for n in range(BLOCK + 3))
    assert rows[1] == Prompt("p1", "g", None, {"tests": TESTS, "n": 1})
    assert pickle.loads(pickle.dumps(rows[1])) == rows[1]
    assert len({rows[1], rows[1], rows[BLOCK]}) == 2
    assert rows[1] != Prompt("p1", "g", None, {"tests": TESTS, "n": 2})


def test_a_row_without_text_is_refused_by_the_names_that_it_has(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "p", "a": 1}\n{"a": 1, "columns": {}}\n')
    with pytest.raises(ValueError, match="rows.jsonl:2: expected the field 'text', got only a"):
        load_prompts(str(tmp_path / "rows.jsonl"))
    (tmp_path / "more.jsonl").write_text('{"text": "p", "columns": "a", "b": 1}\n')
    (prompt,) = load_prompts(str(tmp_path / "more.jsonl"))
    assert prompt.columns == {"columns": "a", "b": 1}
