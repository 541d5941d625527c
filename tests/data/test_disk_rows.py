"""Records on disk: equal to a list of them, in little memory, whoever reads them."""

import math
import multiprocessing
import pickle
import resource
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif_pl.data import disk_rows
from rlaif_pl.data.disk_rows import BLOCK, DiskRows, first_places, key_codes, select
from rlaif_pl.types import Preference, Prompt, Provenance

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SHARES = st.one_of(st.none(), st.floats(0, 1))
PROVENANCES = st.one_of(
    st.just(Provenance()),
    st.builds(
        Provenance,
        labeler=st.one_of(st.none(), TEXTS),
        margin=st.one_of(st.none(), st.floats(allow_nan=False)),
        slot=st.one_of(st.none(), st.integers(1, 2)),
        same_slot=st.one_of(st.none(), st.booleans()),
        tokens=st.integers(0, 2**40),
    ),
)
PAIRS = st.builds(
    Preference, TEXTS, TEXTS, TEXTS, TEXTS, SHARES, st.floats(0, 9), st.sampled_from([None, "ai"]),
    PROVENANCES,
)  # fmt: skip
PROMPTS = st.builds(Prompt, TEXTS, TEXTS, st.one_of(st.none(), TEXTS))


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"text {n}", f"g{n}", f"ref {n}" if n % 2 else None) for n in range(count)]


@settings(deadline=None, max_examples=30)
@given(rows=st.one_of(st.lists(PAIRS, max_size=9), st.lists(PROMPTS, max_size=9)))
def test_records_come_back_as_they_were(rows):
    rows = rows * (BLOCK // 3)
    kept = DiskRows(rows)
    assert kept == rows
    assert [kept[n] for n in range(len(rows))] == rows
    assert all(type(row.provenance.tokens) is int for row in kept if isinstance(row, Preference))


def test_numbers_that_are_none_are_kept():
    row = Preference("p", "a", "b", "g", provenance=Provenance(margin=math.nan))
    kept = DiskRows([row] * BLOCK)
    assert math.isnan(kept[7].provenance.margin)


def test_places_slices_and_selections_are_those_of_a_list():
    rows = prompts(3 * BLOCK + 5)
    kept = DiskRows(rows)
    assert kept[-1] == rows[-1]
    assert kept[5:400:7] == rows[5:400:7]
    assert kept[5:400][10:20][::-1] == rows[5:400][10:20][::-1]
    with pytest.raises(IndexError):
        kept[len(rows)]
    chosen = select(kept, (n for n in range(len(rows)) if n % 3 == 0))
    assert chosen == rows[::3]
    assert select(chosen, np.array([4, 0])) == [rows[12], rows[0]]
    assert kept != rows[:-1]
    assert pickle.loads(pickle.dumps(kept)) == rows


def read_all(rows, others):
    assert all(rows[n] == Prompt(*others[n]) for n in (*range(0, len(rows), 3), *range(len(rows))))


def test_forked_processes_read_the_same_file_at_once():
    rows = prompts(10 * BLOCK)
    kept, fork = DiskRows(rows), multiprocessing.get_context("fork")
    plain = [(row.text, row.group, row.reference) for row in rows]
    readers = [fork.Process(target=read_all, args=(kept, plain)) for _ in range(3)]
    for reader in readers:
        reader.start()
    read_all(kept, plain)
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0, 0]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert disk_rows.scratch_folder() == str(tmp_path)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=str(tmp_path)):
            DiskRows(prompts(BLOCK * 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "ab", "b"]), st.sampled_from([None, "", "b"]))))
def test_keys_are_numbered_by_first_appearance(keys):
    order = list(dict.fromkeys(keys))
    codes = key_codes(keys)
    assert codes.tolist() == [order.index(key) for key in keys]
    assert [keys[n] for n in first_places(codes)] == order
