from dataclasses import replace
from pathlib import Path

import pytest

from rlaif_pl.data.label_parts import LabelParts
from rlaif_pl.data.label_store import texts_of
from rlaif_pl.types import Preference, Provenance

PAIR = Preference("a\u2028post\n", "one", "other", "g", p_first=0.25, source="ai")
FAILED = Preference("b", "one", "other", "g", provenance=Provenance(failure="too_long"))


def test_labels_of_all_ranks_are_read_back_as_they_were(tmp_path):
    LabelParts(tmp_path / "parts", "labeler", 0).append([PAIR])
    LabelParts(tmp_path / "parts", "labeler", 1).append([FAILED])
    LabelParts(tmp_path / "parts", "another", 0).append([replace(PAIR, p_first=0.9)])
    found = LabelParts(tmp_path / "parts", "labeler", 7).read()
    assert found == {texts_of(PAIR): PAIR, texts_of(FAILED): FAILED}


@pytest.mark.parametrize("kept", [1, 40])
def test_a_line_that_a_kill_cut_is_written_anew(tmp_path, kept):
    parts = LabelParts(tmp_path, "labeler")
    parts.append([PAIR, FAILED])
    content = parts.path.read_bytes()
    first = content.index(b"\n") + 1
    parts.path.write_bytes(content[: first + kept])
    assert list(parts.read()) == [texts_of(PAIR)]
    parts.append([FAILED])
    assert parts.path.read_bytes() == content


def test_there_may_be_no_labels_yet(tmp_path):
    assert LabelParts(tmp_path / "nowhere", "labeler").read() == {}


def test_a_failure_never_takes_the_place_of_a_label(tmp_path):
    failed = replace(PAIR, p_first=None, source=None, provenance=Provenance(failure="timeout"))
    for labeler, rows in {"one": [failed, PAIR], "other": [PAIR, failed]}.items():
        for rank, row in enumerate(rows):  # files are read in the order of ranks
            LabelParts(tmp_path, labeler, rank).append([row])
        assert LabelParts(tmp_path, labeler).read() == {texts_of(PAIR): PAIR}
    later = replace(failed, provenance=Provenance(failure="too_long"))
    LabelParts(tmp_path, "third").append([failed, later])
    assert LabelParts(tmp_path, "third").read() == {texts_of(PAIR): later}


def test_the_file_is_looked_through_once(tmp_path, monkeypatch):
    LabelParts(tmp_path, "labeler").append([FAILED])
    parts, reads = LabelParts(tmp_path, "labeler"), []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read_bytes(path))
    for n in range(5):
        parts.append([replace(PAIR, prompt=f"p{n}")])
    assert reads == [parts.path]
    assert len(parts.read()) == 6
