"""Whatever bytes a data file has, reading it gives rows or a sentence that names file and line."""

import csv
import gzip
import io
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzed import inputs, value_or_sentence
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.data.sources import (
    DataSource,
    load_demonstrations,
    load_preferences,
    load_prompts,
)

COLUMNS = (
    "prompt", "first", "second", "p_first", "label", "weight", "group", "chosen", "rejected",
    "text", "reference", "completion", "info", "summaries", "choice", "extra", "provenance",
    "source", "role", "content",
)  # fmt: skip
WORDS = st.sampled_from(
    ["a post", "\n\nHuman: x\n\nAssistant: y", "\n\nHuman: x\n\nAssistant: z", ""]
)
SCALARS = st.one_of(
    WORDS,
    st.text(max_size=8),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 0.5, "first", "tie", "user", "assistant"]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": SCALARS, "content": SCALARS}, optional={"tool_calls": SCALARS}),
    max_size=3,
)
VALUES = st.recursive(
    st.one_of(SCALARS, MESSAGES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(COLUMNS), inner, max_size=3)
    ),
    max_leaves=6,
)
LAYOUTS = st.sampled_from(
    [
        ("prompt", "first", "second", "p_first"),
        ("prompt", "first", "second", "label"),
        ("prompt", "chosen", "rejected"),
        ("chosen", "rejected"),
        ("prompt", "completion"),
        ("info", "summaries", "choice"),
        ("text", "reference"),
    ]
)
ROWS = LAYOUTS.flatmap(
    lambda names: st.lists(
        st.one_of(
            st.fixed_dictionaries(dict.fromkeys(names, VALUES)),
            st.fixed_dictionaries(dict.fromkeys(names, WORDS)),
            st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5),
        ),
        min_size=1,
        max_size=4,
    )
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["drop", "double", "flip", "cut", "put"]),
        st.binary(max_size=4),
    ),
    max_size=3,
)
READ = st.sampled_from([load_preferences, load_prompts, load_demonstrations])
SOURCES = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(
            ["preferences", "prompts", "columns", "openai_comparisons", "hh", "trl"]
        ),
        "columns": st.dictionaries(
            st.sampled_from(("prompt", "chosen", "rejected", "first", "second", "label")),
            st.sampled_from(COLUMNS),
            max_size=3,
        ),
        "hard_labels": st.booleans(),
        "limit": st.integers(1, 3),
        "with_title": st.booleans(),
    },
)


def edited(data: bytes, edits) -> bytes:
    """Damage bytes at places given as shares of their length."""
    for share, kind, extra in edits:
        place = int(share * len(data))
        head, tail = data[:place], data[place:]
        data = {
            "drop": head + tail[7:],
            "double": head + tail[:40] + tail,
            "flip": head + bytes(byte ^ 32 for byte in tail[:1]) + tail[1:],
            "cut": head,
            "put": head + extra + tail,
        }[kind]
    return data


def as_csv(rows) -> bytes:
    out = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["text"]
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode(errors="surrogatepass")


def as_lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(path, data, function, options):
    path.write_bytes(data)
    source = DataSource(str(path), **options)
    result = value_or_sentence(function, source, names=(str(path), "columns"))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return result


@inputs(90)
@given(rows=ROWS, edits=EDITS, function=READ, options=SOURCES)
def test_json_lines(tmp_path, rows, edits, function, options):
    data = edited(as_lines(rows), edits)
    read(tmp_path / "rows.jsonl", data, function, options)


@inputs(30)
@given(rows=ROWS, edits=EDITS, function=READ)
def test_json_arrays(tmp_path, rows, edits, function):
    data = edited(json.dumps(rows).encode(), edits)
    read(tmp_path / "rows.json", data, function, {})


@inputs(20)
@given(
    data=st.binary(max_size=200), function=READ, ending=st.sampled_from(["jsonl", "json", "csv"])
)
def test_bytes(tmp_path, data, function, ending):
    path = tmp_path / f"rows.{ending}"
    read(path, data, function, {})
    path.unlink()


@inputs(20)
@given(rows=ROWS, edits=EDITS, function=READ)
def test_gzip(tmp_path, rows, edits, function):
    data = edited(gzip.compress(as_lines(rows), mtime=0), edits)
    read(tmp_path / "rows.jsonl.gz", data, function, {})


@inputs(60)
@given(rows=ROWS, edits=EDITS, function=READ, options=SOURCES)
def test_csv(tmp_path, rows, edits, function, options):
    data = edited(as_csv(rows), edits)
    read(tmp_path / "rows.csv", data, function, options)


@inputs(50)
@given(rows=ROWS, edits=EDITS, function=READ, options=SOURCES)
def test_parquet(tmp_path, rows, edits, function, options):
    stream = io.BytesIO()
    pq.write_table(as_table(rows), stream)
    data = edited(stream.getvalue(), edits)
    read(tmp_path / "rows.parquet", data, function, options)


def as_table(rows) -> pa.Table:
    """Return rows as a table; values that Arrow cannot put into one column of a file as text."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["text"]
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
            pq.write_table(pa.table({name: columns[name]}), io.BytesIO())
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array([ascii(value) for value in values])
    return pa.table(columns)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a data set as ``save_to_disk`` leaves it: bytes by name of the file."""
    folder = tmp_path_factory.mktemp("saved") / "set"
    rows = {"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@inputs(20)
@given(place=st.integers(0, 99), edits=EDITS, gone=st.booleans())
def test_folders_of_datasets(tmp_path, saved, place, edits, gone):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    name = sorted(saved)[place % len(saved)]
    for each, data in saved.items():
        (folder / each).write_bytes(edited(data, edits) if each == name else data)
    if gone:
        (folder / name).unlink()
    value_or_sentence(load_preferences, str(folder), names=(str(folder),))
