"""Writers on a full disk and in a folder that cannot be written: nothing half-written, files named."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlaif_pl.data import files
from rlaif_pl.data import metric_files as metrics
from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.data.disk import naming, replace_end, replaced
from rlaif_pl.data.label_export import soft_rows, write_parquet
from rlaif_pl.data.label_parts import LabelParts
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.errors import explained
from rlaif_pl.labeling.calls import GenerateRequest, Question, Response
from rlaif_pl.labeling.usage.reply_store import ReplyStore, export_replies
from rlaif_pl.training.callbacks.loggers import HistoryFile
from rlaif_pl.types import Preference

READ_ONLY = Path("/sys/kernel")  # refuses files, to root too
ROOM = 2000  # bytes a file may have


@contextmanager
def little_room():
    """Let the system refuse what makes a file longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pairs(count, text="x" * 100):
    return [Preference(f"{n} {text}", "a", "b", f"g{n}", p_first=0.5) for n in range(count)]


WRITERS = {
    "lines": lambda path, n: files.write_lines(path, ["x" * 100] * n),
    "metrics": lambda path, n: metrics.write_json(path, ["x" * 100] * n),
    "preferences": lambda path, n: write_preferences(path, pairs(n)),
    "parquet": lambda path, n: write_parquet(
        path, soft_rows(pairs(n, os.urandom(50 * n).hex()), 0.0)
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, name):
    path = tmp_path / "file.out"
    WRITERS[name](path, 1)
    before = path.read_bytes()
    with little_room(), pytest.raises(OSError, match="File too large") as refused:
        WRITERS[name](path, 200)
    assert refused.value.errno == errno.EFBIG
    assert f"expected room to write {path}" in explained(refused.value)
    assert "give the same command again" in explained(refused.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file.out"]


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="Linux's /sys refuses files to anybody")
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_is_named(name):
    path = READ_ONLY / "file.out"
    with pytest.raises(OSError, match="enied|permitted|Read-only") as refused:
        WRITERS[name](path, 1)
    assert f"use {path}, got: " in explained(refused.value)
    assert "name another place" in explained(refused.value)


def test_a_row_that_has_no_room_is_not_there_at_all(tmp_path):
    parts = LabelParts(tmp_path, "labeler")
    parts.append(pairs(2))
    before = parts.path.read_bytes()
    with little_room(), pytest.raises(OSError, match="File too large") as refused:
        parts.append(pairs(20))
    assert refused.value.filename == str(parts.path)
    assert parts.path.read_bytes() == before
    parts.append(pairs(3)[2:])
    assert len(parts.read()) == 3


def test_a_history_row_is_the_old_one_where_the_new_has_no_room(tmp_path):
    history = HistoryFile(tmp_path)
    names = {f"a/{n}": n / 3 for n in range(30)}
    history.log_metrics({**names, "late": 1.0}, 0)
    history.log_metrics(names, 1)
    before = history.path.read_bytes()
    long = {name: value + 1e-9 for name, value in names.items()}
    with little_room(), pytest.raises(OSError, match="File too large") as refused:
        list(map(history.log_metrics, [long] * 8, range(1, 9)))
    assert refused.value.filename == str(history.path)
    rows = read_table(history.path).rows
    assert history.path.read_bytes().startswith(before[: before.rindex(b"\n1,")])
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    assert all(row["a/29"] for row in rows)


def test_a_label_store_without_room_keeps_what_it_has_and_says_what_to_do(tmp_path):
    with LabelStore(tmp_path / "labels.sqlite") as store:
        store.put("m", pairs(3))
        with little_room(), pytest.raises(OSError, match=r"labels\.sqlite, got .*room") as refused:
            store.put("m", pairs(200, os.urandom(500).hex()))
        assert "name another store" in str(refused.value)
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert len(store) == 3
        store.put("m", pairs(5))
        assert len(store) == 5


def test_a_reply_store_without_room_keeps_what_it_has(tmp_path):
    call, reply = GenerateRequest(Question("why?")), Response(text=os.urandom(4000).hex())
    keys = [bytes([n]) * 16 for n in range(20)]
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        store.put(keys[0], call, reply, "m")
        with little_room(), pytest.raises(OSError, match="has room"):
            [store.put(key, call, reply, "m") for key in keys[1:]]
        known = len(store)
        store.put(keys[-1], call, reply, "m")
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        assert len(store) == known + 1
        before = len(store)
        for name in ("replies.jsonl", "replies.parquet"):
            with little_room(), pytest.raises(OSError, match="File too large") as refused:
                export_replies(store, tmp_path / name)
            assert refused.value.filename == str(tmp_path / name)
            assert not (tmp_path / name).exists()
            assert export_replies(store, tmp_path / name) == before


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as missing, replaced(tmp_path / "new"):
        (tmp_path / "absent").read_text()
    assert missing.value.filename == str(tmp_path / "absent")
    with pytest.raises(OSError, match="no number"), naming(tmp_path / "new"):
        raise OSError("no number")
    assert not list(tmp_path.iterdir())


def test_the_end_of_a_file_is_replaced(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo, long\n")
    assert replace_end(path, b"2\n", 4) == 4
    assert replace_end(path, b"three\n", sync=True) == 6
    assert path.read_bytes() == b"one\n2\nthree\n"
