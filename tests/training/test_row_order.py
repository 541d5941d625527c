"""Rows kept on disk are served in the order in which lists of them were: digests of the former code."""

import csv
import dataclasses
import gzip
import hashlib
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rlaif_pl.data.labeling_pass import Labeling, unlabeled
from rlaif_pl.data.loader import BatchOrder
from rlaif_pl.data.mixing import PreferencePart
from rlaif_pl.data.sources import DataSource
from rlaif_pl.training.datamodule import PreferenceDataModule
from rlaif_pl.training.pairs_module import labels
from rlaif_pl.types import Preference, Prompt, Provenance

COUNT = 700


class Judge:
    """Judges by lengths; cannot judge every seventh prompt."""

    fingerprint = "judge"

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        return [self.judged(pair) for pair in pairs]

    def judged(self, pair):
        if int(pair.prompt.split()[1]) % 7 == 0:
            return dataclasses.replace(pair, provenance=Provenance(failure="malformed"))
        share = len(pair.first) / len(pair.first + pair.second)
        return dataclasses.replace(
            pair, p_first=share, source="ai", provenance=Provenance(margin=share, tokens=3)
        )


def words(n: int) -> str:
    return "é" * (n % 3) + " word" * (1 + n * 37 % 23)


def pair(n: int) -> dict:
    second = f"b {n}{words(n + 1)}"
    first = second if n % 50 == 0 else f"a {n}{words(n)}"
    return {
        "prompt": f"post {n // 3}",
        "first": first,
        "second": second,
        "p_first": (n % 11) / 10,
        "weight": 1 + n % 2,
        "group": f"g{n // 3}",
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    pairs = [pair(n) for n in range(COUNT)]

    def lines(name, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        opener = gzip.open if name.endswith(".gz") else open
        with opener(folder / name, "wt", encoding="utf-8") as file:
            file.write(text)

    lines("pairs.jsonl", pairs)
    lines("pairs.json", pairs)
    lines("other.jsonl.gz", pairs[::5])
    lines("bare.jsonl", [{k: v for k, v in row.items() if k != "p_first"} for row in pairs])
    lines("held.jsonl", pairs[100:160])
    lines(
        "prompts.jsonl",
        [
            {"text": f"post {n % 301}", "group": f"g{n % 301}"}
            | ({"reference": f"ref {n % 5} {n % 301}"} if n % 3 == 0 else {})
            for n in range(COUNT)
        ],
    )
    lines(
        "votes.jsonl",
        [
            {
                "info": {"id": f"i{n % 300}", "post": f"post {n % 300}"},
                "summaries": [{"text": f"s {n % 300}"}, {"text": f"t {n % 299}"}],
                "choice": n % 2,
            }
            for n in range(COUNT)
        ],
    )
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "one", "two", "winner"])
        names = ("model_a", "model_b", "tie")
        writer.writerows(
            [row["prompt"], row["first"], row["second"], names[n % 3]]
            for n, row in enumerate(pairs)
        )
    table = {
        "prompt": [row["prompt"] for row in pairs],
        "chosen": [[{"role": "assistant", "content": row["first"]}] for row in pairs],
        "rejected": [[{"role": "assistant", "content": row["second"]}] for row in pairs],
    }
    pq.write_table(pa.table(table), folder / "pairs.parquet")
    return lambda name: str(folder / name)


TABLE = {"first": "one", "second": "two", "label": "winner"}
CASES = {
    "lines": lambda f: {"preferences": f("pairs.jsonl")},
    "json": lambda f: {"preferences": f("pairs.json"), "bucket": True, "drop_last": True},
    "csv": lambda f: {
        "preferences": DataSource(f("pairs.csv"), columns=TABLE, hard_labels=True, limit=300)
    },
    "parquet": lambda f: {"preferences": DataSource(f("pairs.parquet"), seed=5, part=(0.0, 0.7))},
    "votes": lambda f: {"preferences": f("votes.jsonl"), "validation_fraction": 0.0},
    "mix": lambda f: {
        "preferences": [
            PreferencePart(f("pairs.jsonl"), 0.5, 2.0),
            PreferencePart(f("other.jsonl.gz"), 2.0),
        ]
    },
    "held": lambda f: {"preferences": f("pairs.jsonl"), "validation": f("held.jsonl")},
    "bare": lambda f: {"preferences": f("bare.jsonl"), "bucket": True},
    "prompts": lambda f: {"task": "prompts", "prompts": f("prompts.jsonl")},
    "prompts of pairs": lambda f: {"task": "prompts", "prompts": f("pairs.parquet")},
    "demonstrations": lambda f: {"task": "demonstrations", "demonstrations": f("prompts.jsonl")},
    "comparisons": lambda f: {"task": "comparisons", "preferences": f("bare.jsonl")},
}
# rows to train on and held out, and what is served of them
SERVED = {
    "lines": (396, 126, "06ae6ea3b9e3f409"),
    "json": (517, 169, "084841b89d5d0890"),
    "csv": (250, 50, "713decb03a5bf096"),
    "parquet": (402, 84, "71629d4fc00eebb6"),
    "votes": (700, 0, "3aa796177d9d41f7"),
    "mix": (622, 190, "a97629fc06a9a1f2"),
    "held": (625, 58, "1cd60ed42eed0ebb"),
    "bare": (447, 139, "ea5fa05e2dd61d53"),
    "prompts": (220, 81, "f27ddf8311f10c53"),
    "prompts of pairs": (191, 43, "8de99efff9133104"),
    "demonstrations": (168, 66, "2ccbbf2c01919f85"),
    "comparisons": (686, 0, "8451b0562dd95de6"),
}


def of_task(batch) -> list:
    """Return a batch in the form of which the digests were taken."""
    rows, fillers = batch.rows, list(batch.is_padding)
    if isinstance(rows[0], Prompt):
        return [batch.prompts, [row.group for row in rows], list(batch.positions), fillers]
    target, weight = labels(batch, torch.device("cpu"))
    first, second = ([getattr(row, side) for row in rows] for side in ("first", "second"))
    return [batch.prompts, first, second, target.tolist(), weight.tolist()]


def demonstrated(batch) -> list:
    return [batch.prompts, batch.given("reference"), list(batch.is_padding)]


def compared(batch) -> list:
    return [[unlabeled(row) for row in batch.rows], list(batch.is_padding)]


FORMS = {"demonstrations": demonstrated, "comparisons": compared}


def served(data) -> list:
    """All that a data module serves: held-out rows, two epochs, the rest of one after a restart."""
    plain = FORMS.get(data.task, of_task)
    if data.task == "comparisons":
        return [plain(batch) for batch in data.predict_dataloader()]
    found = [plain(batch) for batch in data.val_dataloader()]
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        found += [plain(batch) for batch in loader]
    found.append(plain(loader.upcoming()))
    batches = iter(loader)
    for _ in range(len(loader) // 2):
        next(batches)
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    resumed.batch_sampler.set_epoch(1)
    rest = [plain(batch) for batch in resumed]
    assert rest == [plain(batch) for batch in batches]
    return [*found, *rest]


def digest(value) -> str:
    # Rows had no messages when the digests were taken.
    said = repr(value).replace(", messages=None", "")
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("case", CASES)
def test_what_is_served_is_as_it_was(files, tmp_path, case):
    labeling = Labeling(Judge(), store=str(tmp_path / "labels"), progress=False)
    settings = {"validation_fraction": 0.2, "seed": 3, "labeling": labeling}
    data = PreferenceDataModule(**settings | CASES[case](files))
    data.prepare_data()
    data.setup("fit")
    if case == "lines":
        data.keep_rows(lambda rows: [len(row.first) % 4 > 0 for row in rows], "a fourth")
    assert (len(data.train_rows), len(data.validation_rows), digest(served(data))) == SERVED[case]


def test_the_order_of_each_rank_is_as_it_was():
    lengths = [n * 37 % 101 for n in range(1001)]
    orders = [
        BatchOrder(
            1001, 4, rank, 3, seed=2, shuffle=shuffle, drop_last=drop, lengths=given, epoch=1
        )
        for rank in range(3)
        for shuffle in (True, False)
        for drop in (True, False)
        for given in (None, lengths)
    ]
    shards = [[tuple(shard) for shard in order.shards()] for order in orders]
    assert digest(shards) == "4d761ba2b710c214"
