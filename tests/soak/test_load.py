"""Stores under eight writers, the rating page under twenty raters and two kills: nothing is lost."""

import itertools
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pyarrow as pa
import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.evaluation.human.store import RatingStore
from rlaif_pl.labeling.calls import GenerateRequest, Question, Response
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.training import PreferenceDataModule
from rlaif_pl.types import Preference

WRITERS = 8
BATCH = 64
FORK = multiprocessing.get_context("fork")


def sizes(short: int, long: int) -> list:
    """Return a size for every run of the tests, and one for a soak."""
    return [short, pytest.param(long, marks=pytest.mark.soak)]


def pair(n: int) -> Preference:
    return Preference(f"post {n}", "one", "two", f"g{n}", p_first=(n % 101) / 100)


def write_labels(path: Path, rows: range) -> None:
    """Write rows in batches; every second row of another writer's is written too."""
    with LabelStore(path) as store:
        for first in range(rows.start, rows.stop, BATCH):
            store.put("m", [pair(n) for n in range(first, min(first + BATCH, rows.stop))])


def write_replies(path: Path, rows: range) -> None:
    with ReplyStore(path) as store:
        for n in rows:
            call = GenerateRequest(Question(f"why {n}?"))
            store.put(n.to_bytes(16, "big"), call, Response(text=f"{n}"), "m")


def at_once(target, path: Path, parts: list[range]) -> float:
    """Run one writer a part, all at once; returns seconds."""
    began = time.monotonic()
    writers = [FORK.Process(target=target, args=(path, part)) for part in parts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * len(parts)
    return time.monotonic() - began


@pytest.mark.parametrize("count", sizes(4_000, 100_000))
def test_eight_processes_write_one_label_store(tmp_path, count):
    path, size = tmp_path / "labels.sqlite", count // WRITERS
    # each writes a tenth of its neighbor's rows again
    parts = [range(k * size, min(count, (k + 1) * size + size // 10)) for k in range(WRITERS)]
    seconds = at_once(write_labels, path, parts)
    with LabelStore(path) as store:
        assert len(store) == count
        for first in range(0, count, 5000):
            asked = [pair(n) for n in range(first, min(first + 5000, count))]
            found = [known.p_first for _, known in store.look_up("m", asked) if known]
            assert found == [p.p_first for p in asked]
    print(f"label store: {count} rows by {WRITERS} processes in {seconds:.1f} s, none lost")


@pytest.mark.parametrize("count", sizes(800, 100_000))
def test_eight_processes_write_one_reply_store(tmp_path, count):
    path, size = tmp_path / "replies.sqlite", count // WRITERS
    parts = [range(k * size, (k + 1) * size) for k in range(WRITERS)]
    seconds = at_once(write_replies, path, parts)
    with ReplyStore(path) as store:
        assert len(store) == count
        assert store.totals().answered == count
        found = store.get_many([n.to_bytes(16, "big") for n in range(count)])
        assert {reply.text for reply in found.values()} == {str(n) for n in range(count)}
    print(f"reply store: {count} rows by {WRITERS} processes in {seconds:.1f} s, none lost")


def resident() -> int:
    """Bytes of memory that this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_rows(path: Path, count: int) -> None:
    """Write pairs of about 600 bytes."""
    texts = {"prompt": "word " * 60, "first": "word " * 20, "second": "word " * 21}
    with path.open("w") as file:
        for n in range(count):
            row = {key: f"{n} {text}" for key, text in texts.items()}
            row |= {"p_first": (n % 101) / 100, "group": f"g{n}"}
            file.write(json.dumps(row) + "\n")


def serve_and_resume(path: Path, traced: bool) -> dict[str, float]:
    """Set up, go through half an epoch and, in another loader, the rest; returns sizes and times."""
    if traced:
        tracemalloc.start()
    pool = pa.proxy_memory_pool(pa.default_memory_pool())  # counts from here on, forked or not
    pa.set_memory_pool(pool)
    before, began = resident(), time.process_time()
    data = PreferenceDataModule(preferences=str(path), batch_size=512, seed=1)
    data.prepare_data()
    data.setup("fit")
    data.keep_rows(lambda rows: [row.first != row.second for row in rows], "alike")
    set_up = time.process_time()
    loader, rest = data.train_dataloader(), data.train_dataloader()
    batches = iter(loader)
    seen = bytearray(len(data.train_rows) + len(data.validation_rows))

    def see(batch) -> None:
        for prompt in batch.prompts:
            seen[int(prompt.split()[0])] += 1

    for _ in range(len(loader) // 2):
        see(next(batches))
    rest.load_state_dict(loader.state_dict())
    for batch in itertools.chain(rest, data.val_dataloader()):
        see(batch)
    assert seen.count(1) == len(seen)  # each row once
    return {
        "rows": len(seen),
        "traced": tracemalloc.get_traced_memory()[1] if traced else 0,
        "arrow": pool.max_memory(),
        "resident": resident() - before,
        "set_up": set_up - began,
        "served": time.process_time() - set_up,
    }


BYTES_PER_ROW = 100  # of memory that a preference file may take


def measured(path: Path, count: int, traced: bool = False) -> dict[str, float]:
    """Do it in a process of its own."""
    write_rows(path, count)
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:
        found = pool.submit(serve_and_resume, path, traced).result()
    print(
        f"preference file: {count} rows, {path.stat().st_size / 1e6:.0f} MB; memory grew by "
        f"{found['resident'] / 1e6:.0f} MB at most, {found['traced'] / 1e6:.1f} MB of it traced, "
        f"Arrow's {found['arrow'] / 1e6:.1f} MB; {found['set_up']:.0f} s of a core to set up, "
        f"{found['served']:.0f} s for an epoch resumed in its middle"
    )
    assert found["rows"] == count
    assert found["arrow"] < 8e6  # a batch, whatever the size of the file
    return found


def test_a_preference_file_takes_few_bytes_of_memory_a_row(tmp_path):
    # of both: what reading anything at all takes, such as torch's code and whole batches of Arrow's
    one, two = (measured(tmp_path / f"{count}.jsonl", count) for count in (8_000, 40_000))
    # a list of the rows took 1,773 bytes each; what the system hands out is too coarse for less
    assert (two["resident"] - one["resident"]) / 32_000 < 4 * BYTES_PER_ROW


@pytest.mark.soak
def test_a_million_preferences_stream_in_bounded_memory(tmp_path):
    found = measured(tmp_path / "rows.jsonl", 1_000_000)
    assert found["resident"] < BYTES_PER_ROW * 1_000_000 + 32e6


@pytest.mark.soak
def test_python_objects_of_a_preference_file_take_few_bytes_a_row(tmp_path):
    one, two = (measured(tmp_path / f"{count}.jsonl", count, True) for count in (2_000, 20_000))
    assert (two["traced"] - one["traced"]) / 18_000 < BYTES_PER_ROW


class Page:
    """The command ``rate`` in a process of its own, at one port, whoever kills it."""

    def __init__(self, words: list[str], port: int, log: Path) -> None:
        self.words, self.port, self.log = words, port, log
        self.process = None

    def start(self) -> None:
        self.process = FORK.Process(
            target=serve, args=(self.words, self.port, self.log), daemon=True
        )
        self.process.start()
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
                return
            assert self.process.is_alive(), self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def serve(words: list[str], port: int, log: Path) -> None:
    with log.open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(cli.main(["rate", *words, "--page.port", str(port)]))


class Rater(threading.Thread):
    """Rates all there is; what it was told is on disk it keeps, what fails it sends again."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(daemon=True)
        self.port, self.rater = port, name
        self.seconds: list[float] = []
        self.statuses: Counter = Counter()
        self.kept: set[str] = set()

    def post(self, path: str, **body) -> dict:
        data = json.dumps({"rater": self.rater, **body}).encode()
        head = {"Content-Type": "application/json"}
        for _ in range(600):
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", data, head)
            began = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    said = json.load(answer)
            except urllib.error.HTTPError as error:
                self.statuses[error.code] += 1
                raise
            except (OSError, HTTPException, ValueError):  # the server was killed, perhaps in a word
                time.sleep(0.1)
                continue
            self.seconds.append(time.monotonic() - began)
            return said
        raise TimeoutError(self.rater)

    def run(self) -> None:
        said, number = self.post("next"), 0
        while said["state"] == "task":
            key = f"{self.rater}-{number}"
            ranks = list(range(1, len(said["task"]["texts"]) + 1))
            said = self.post("rating", task=said["task"]["id"], submission=key, ranks=ranks)
            self.kept.add(key)
            number += 1


@pytest.mark.parametrize("items", sizes(60, 2000))
def test_twenty_raters_and_two_kills_lose_nothing(tmp_path, items, free_port):
    samples = tmp_path / "samples.jsonl"
    rows = [
        {
            "prompt": f"p {n}",
            "group": f"g{n}",
            "reference": f"r {n}",
            "a": [f"one {n}"],
            "b": [f"two {n}"],
        }
        for n in range(items)
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--samples", str(samples), "--out", str(tmp_path / "out"), "--raters_per_prompt", "3"]
    page = Page(words, free_port, tmp_path / "log.txt")
    page.start()
    raters = [Rater(free_port, f"rater {n}") for n in range(20)]
    for rater in raters:
        rater.start()
    for share in (0.25, 0.6):
        while sum(len(rater.kept) for rater in raters) < share * 3 * items:
            time.sleep(0.02)
        page.kill()
        page.start()
    for rater in raters:
        rater.join(3600)
    page.kill()
    with RatingStore(tmp_path / "out" / "ratings.sqlite") as store:
        ratings = list(store.ratings())
    sent = {key for rater in raters for key in rater.kept}
    assert {rating.submission for rating in ratings} == sent
    assert len(ratings) == len(sent)
    by_task = Counter(rating.task for rating in ratings)
    assert len(by_task) == items
    assert min(by_task.values()) >= 3
    assert not sum((rater.statuses for rater in raters), Counter())  # no 4xx, no 5xx
    seconds = [s for rater in raters for s in rater.seconds]
    p95 = statistics.quantiles(seconds, n=20)[-1]
    print(
        f"rating page: 20 raters, {items} prompts, {len(ratings)} ratings, p95 {1000 * p95:.0f} ms"
    )
    assert p95 < 30  # a stop, not a promise: the machine may be busy
