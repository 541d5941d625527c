"""Errors in a user's words: what was expected, what came, what to do."""

import errno
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Literal

import pytest
from safetensors import SafetensorError, safe_open

from rlaif_pl.cli import main as cli
from rlaif_pl.errors import above, at_least, explained, foreseen_errors, one_of, within

FORK = multiprocessing.get_context("fork")  # importing anew takes longer than a command


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "expected room to write x/y, got: No space left on device; free some"),
        (errno.EFBIG, "then give the same command again"),
        (errno.EACCES, "expected to be allowed to use x/y, got: Permission denied"),
        (errno.EROFS, "name another place"),
        (errno.ENOTDIR, "expected a folder at x/y"),
        (errno.EEXIST, "a file is in the way"),
        (errno.EISDIR, "expected a file at x/y, got a folder"),
        (errno.ENOENT, "expected a file or folder at x/y, found nothing"),
        (errno.EPIPE, "Broken pipe: 'x/y'"),
    ],
)
def test_what_the_system_refused(number, said):
    assert said in explained(OSError(number, os.strerror(number), "x/y"))


def test_a_file_without_a_name():
    assert "to write a file, got" in explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_our_own_words_stay_as_they_are():
    assert explained(FileNotFoundError("expected data at x, found none")) == (
        "expected data at x, found none"
    )
    assert explained(ValueError("expected\n- a list")) == "expected\n- a list"


def test_of_a_parser_only_the_reason_is_left():
    message = (
        "Does not validate against any of the Union subtypes\nSubtypes: [a, b]\nErrors:\n"
        "  - kl_coef must be in [0, 1], got 2.0\n  - Expected a <class 'str'>\n"
        "Given value type: x\nGiven value:\n- no reason"
    )
    assert explained(ValueError(message)) == "kl_coef must be in [0, 1], got 2.0"
    bare = "Does not validate against any of the Union subtypes\n  - Expected a <class 'str'>"
    assert explained(ValueError(bare)) == bare


def test_damaged_weights_are_foreseen(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SafetensorError) as caught, safe_open(tmp_path / "model.safetensors", "pt"):
        pass
    assert isinstance(caught.value, foreseen_errors())
    assert "expected weights in safetensors files" in explained(caught.value)


def test_a_mistake_of_ours_is_not_foreseen():
    assert not issubclass(KeyError, foreseen_errors())
    assert not issubclass(AttributeError, foreseen_errors())


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(tmp_path, data_files):
    words = ["export", "--preferences", data_files.pairs, "--out", str(tmp_path / "rows.jsonl")]
    reader, writer = os.pipe()  # the limit holds for files alone
    process = FORK.Process(target=with_small_files, args=(words, writer))
    process.start()
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        said = stream.read()
    process.join()
    assert process.exitcode == 1
    assert "error: expected room to write" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def with_small_files(words, writer):
    """Run a command where no file may be larger than 100 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    with open(writer, "w", encoding="utf-8") as sys.stderr:
        sys.exit(cli.main(words))


def test_settings_within_their_bounds_pass():
    at_least(1, n=1, left_out=None)
    above(0, lr=1e-9, left_out=None)
    within(0, 1, p=0, q=1.0, left_out=None)
    one_of(Literal["a", "b"], kind="b")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: at_least(1, m=2, n=0), "expected n of at least 1, got 0"),
        (lambda: at_least(1, n=math.nan), "expected n of at least 1, got nan"),
        (lambda: above(0, lr=0.0), "expected lr above 0, got 0.0"),
        (lambda: above(0, lr=math.nan), "expected lr above 0, got nan"),
        (lambda: within(0, 1, p=1.5), "expected p in [0, 1], got 1.5"),
        (lambda: within(0, 1, p=math.nan), "expected p in [0, 1], got nan"),
        (lambda: one_of(Literal["a", "b"], kind="c"), "expected kind to be 'a' or 'b', got 'c'"),
        (lambda: one_of(Literal["a"], kind=None), "expected kind to be 'a', got None"),
    ],
)
def test_settings_outside_them_are_named(check, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check()


def test_a_folder_that_cannot_be_made_is_no_name_to_check(tmp_path):
    with pytest.raises(OSError, match="/proc/nope") as found:
        Path("/proc/nope/runs").mkdir(parents=True)
    assert explained(found.value).startswith("expected to be allowed to make /proc/nope, got: ")
    with pytest.raises(OSError, match="nope") as found:
        (tmp_path / "nope").read_text()
    assert explained(found.value).endswith("found nothing; check the name")
