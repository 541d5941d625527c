"""Raw rows: every format, every place an error can be."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlaif_pl.data import disk, files
from rlaif_pl.data.files import data_files, read_rows, write_lines
from rlaif_pl.text import shown

ROWS = [{"prompt": "a, b", "n": 1}, {"prompt": 'quoted "x"\nnew line', "n": 2}]


def fields(path):
    return [row.fields for row in read_rows(path)]


def test_json_lines_arrays_gzip_and_parquet_give_the_same_rows(tmp_path):
    lines = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "array.json").write_text("\n " + json.dumps(ROWS))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.jsonl", "lines.json", "array.json", "a.jsonl.gz", "a.parquet"):
        assert fields(tmp_path / name) == ROWS, name


def test_csv_keeps_commas_and_new_lines_in_quotes_and_reads_empty_cells_as_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,label\n"a, b\nc",0\nd,\n')
    assert fields(path) == [{"prompt": "a, b\nc", "label": "0"}, {"prompt": "d", "label": None}]


LINES = ['{"prompt": "Größe?", "n": 1}', '{"prompt": "b", "n": 2}']
READ = [{"prompt": "Größe?", "n": 1}, {"prompt": "b", "n": 2}]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "lines.json", "array.json"])
def test_marks_encodings_and_line_ends_change_no_json_row(tmp_path, name, encoding, end):
    text = f"[{end}{f',{end}'.join(LINES)}{end}]" if name == "array.json" else end.join(LINES)
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wb") as file:
        file.write(text.encode(encoding))
    assert fields(tmp_path / name) == READ


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_marks_encodings_and_line_ends_change_no_csv_row(tmp_path, encoding, end):
    text = end.join(["prompt,label", '"ä, b', 'c",0', "d,"])
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert fields(tmp_path / "a.csv") == [
        {"prompt": "ä, b\nc", "label": "0"},
        {"prompt": "d", "label": None},
    ]
    assert [row.where.rpartition(":")[2] for row in read_rows(tmp_path / "a.csv")] == ["2", "4"]


def test_utf16_without_a_mark_is_told_by_its_zeros(tmp_path):
    (tmp_path / "a.jsonl").write_bytes("\n".join(LINES).encode("utf-16-le"))
    assert fields(tmp_path / "a.jsonl") == READ


def test_a_pipe_is_refused_and_loses_nothing_unseen():
    read, write = os.pipe()
    os.write(write, "\n".join(LINES).encode())
    os.close(write)
    with pytest.raises(OSError, match="not seekable"):
        list(read_rows(Path(f"/dev/fd/{read}")))
    os.close(read)


def test_files_that_were_joined_have_marks_inside(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b"".join((line + "\n").encode("utf-8-sig") for line in LINES)
    )
    assert fields(tmp_path / "a.jsonl") == READ


def test_half_characters_become_the_replacement_character(tmp_path):
    half, whole = '{"a": ["x\\ud83d y"], "\\uDE00": {"b": "\\ude00"}}', '{"a": "\\ud83d\\ude00"}'
    (tmp_path / "a.jsonl").write_text(f"{half}\n{whole}\n")
    assert fields(tmp_path / "a.jsonl") == [
        {"a": ["x\ufffd y"], "\ufffd": {"b": "\ufffd"}},
        {"a": "\U0001f600"},
    ]
    (tmp_path / "a.json").write_text(f"[{half}, {whole}]")
    assert fields(tmp_path / "a.json") == fields(tmp_path / "a.jsonl")


def test_a_long_cell_is_read_and_an_endless_one_is_named_for_what_it_is(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text(f'x,y\n1,"{"long " * 40_000}"\n')
    assert len(fields(path)[0]["y"]) == 200_000
    monkeypatch.setattr(files, "LONGEST_CELL", 1000)
    before = files.csv.field_size_limit(1000)
    path.write_text('x,y\n1,2\n1,"open\n' + "a\n" * 1000)
    try:
        with pytest.raises(
            ValueError, match=r"a.csv:3: expected cells of at most 1,000 char.*quote"
        ):
            list(read_rows(path))
    finally:
        files.csv.field_size_limit(before)


def test_parquet_with_bytes_that_are_no_text_is_named_with_the_row(tmp_path):
    raw = pa.array([b"fine", b"half \xed\xa0\xbd"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet row 1: expected UTF-8 text"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl:2: expected JSON"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: expected one object"),
        ("a.json", '[{"x": 1}, 3]', r"a.json\[1\]: expected one object"),
        ("a.csv", "x,y\n1,2\n1,2,3\n", "a.csv:3: expected 2 cells"),
        ("a.parquet", "no parquet at all", "a.parquet: expected a Parquet file"),
        ("a.jsonl.gz", "no gzip", "a.jsonl.gz: expected UTF-8 text in gzip"),
        ("a.csv", 'x,y\n"1,2\n', "expected CSV"),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path, name, text, place):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=place):
        list(read_rows(tmp_path / name))


def test_no_text_of_a_broken_row_is_repeated(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"prompt": my secret}\n')
    with pytest.raises(ValueError, match="a.jsonl:2: expected JSON, got something else") as found:
        list(read_rows(tmp_path / "a.jsonl"))
    assert "secret" not in str(found.value)
    assert shown("my secret is that I") == "a text of 19 characters"
    assert shown("s" * 21) == "a text of 21 characters"
    assert shown("best_of_b") == "'best_of_b'"


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"x": "y"}\n{"x": "\xff"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl:2: expected UTF-8.*save the file as UTF-8"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_gzip_that_is_no_text_and_damaged_is_named(tmp_path):
    # it looks like UTF-16, of which it has half a character, and is UTF-8 to its end
    content = bytearray(gzip.compress(b"[\0A\xd8\x80\0" + b"x\0" * 20))
    content[-5] ^= 1  # its checksum, which is read when a line is looked for
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.jsonl.gz: expected UTF-8 text"):
        list(read_rows(path))


def test_damaged_gzip_is_named(tmp_path):
    content = bytearray(gzip.compress(os.urandom(10_000).hex().encode()))
    content[3000:3050] = bytes(50)
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.jsonl.gz.*expected"):
        list(read_rows(tmp_path / "a.jsonl.gz"))


def test_a_folder_gives_the_files_of_a_split_in_order(tmp_path):
    for name in ("train-2.jsonl", "train-1.jsonl", "test.jsonl", "README.md"):
        (tmp_path / name).write_text("{}\n")
    assert [file.name for file in data_files(tmp_path, "train")] == [
        "train-1.jsonl",
        "train-2.jsonl",
    ]
    with pytest.raises(FileNotFoundError, match=r"split 'dev'.*found test.jsonl, train-1.jsonl"):
        data_files(tmp_path, "dev")


def test_a_number_beyond_all_is_named_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": ' + "9" * 5000 + "}\n")
    with pytest.raises(ValueError, match=r"a.jsonl:1: expected JSON.*5000 digits"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_a_folder_without_data_names_the_folders_below(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found no data file, but the folders data/; name"):
        data_files(tmp_path, "train")


def test_a_table_with_tabs_and_endings_in_capitals_are_read(tmp_path):
    for name, separator in (("a.tsv", "\t"), ("B.TSV.GZ", "\t"), ("C.CSV", ",")):
        content = separator.join(["x", "y"]) + "\n" + separator.join(["1", "a b"]) + "\n"
        packed = gzip.compress(content.encode()) if name.endswith("GZ") else content.encode()
        (tmp_path / name).write_bytes(packed)
        assert [row.fields for row in read_rows(tmp_path / name)] == [{"x": "1", "y": "a b"}]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("prompt,chosen,chosen", "'chosen' more than once"),
        ("prompt;chosen;rejected", "',' between cells, got ';'"),
        ("prompt\tchosen\trejected", r"',' between cells, got '\\t'"),
    ],
)
def test_a_header_that_would_lose_columns_is_refused(tmp_path, header, said):
    (tmp_path / "a.csv").write_text(f"{header}\na,b,c\n")
    with pytest.raises(ValueError, match=rf"a.csv:1: expected .*{said}"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_missing_file_and_an_unknown_ending_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        data_files(tmp_path / "none.jsonl", "train")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="ending in .jsonl"):
        data_files(tmp_path / "a.txt", "train")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write_lines(path, ["old"])

    def lines():
        yield "new"
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_lines(path, lines())

    def no_disk(_):
        raise OSError("no space left")

    monkeypatch.setattr(disk.os, "fsync", no_disk)
    with pytest.raises(OSError, match="no space"):
        write_lines(path, ["new"])
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_lines(tmp_path / "deep" / "a.jsonl", ["x"])
    written = (tmp_path / "deep" / "a.jsonl").stat().st_mode
    assert written == (tmp_path / "plain").stat().st_mode
