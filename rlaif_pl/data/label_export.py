"""Labels as tables that other programs read: Parquet or JSON lines, soft or chosen/rejected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif_pl.data.disk import replaced
from rlaif_pl.data.records import finite
from rlaif_pl.types import Message, Preference, Provenance

ExportLayout = Literal["soft", "trl"]
NUMBERS = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
SOFT = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "first", "second")),
        *((name, pa.float64()) for name in ("p_first", "weight")),
        *((name, pa.string()) for name in ("source", "group")),
        *((field.name, NUMBERS[field.type.split(" | ")[0]]) for field in fields(Provenance)),
    ]
)
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TEXTS, TURNS = (
    pa.schema(
        [*((name, kind) for name in ("prompt", "chosen", "rejected")), ("p_chosen", pa.float64())]
    )
    for kind in (pa.string(), MESSAGES)
)


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of an export, with an account of what is not in it."""

    schema: pa.Schema  # names and types of the columns
    rows: list[dict[str, object]]  # the rows
    left_out: Mapping[str, int]  # pairs that are not in it, by reason


def soft_rows(pairs: Sequence[Preference], min_margin: float = 0.0) -> Exported:
    """Return labels as they are, ties included, with their provenance in columns of their own.

    Where a prompt has turns there is a column ``messages``. Left out and counted: pairs without a
    label, or with ``|p - 0.5|`` below ``min_margin`` (0 to 0.5).
    """
    has_turns = any(pair.messages for pair in pairs)
    schema = SOFT.append(pa.field("messages", MESSAGES)) if has_turns else SOFT

    def row(pair: Preference) -> dict[str, object]:
        flat = asdict(pair)
        flat = finite(flat | flat.pop("provenance"))
        return {name: flat[name] for name in schema.names}

    return _exported(schema, pairs, min_margin, row)


def trl_rows(
    pairs: Sequence[Preference], min_margin: float = 0.0, with_margin: bool = False
) -> Exported:
    """Return labels in TRL's columns: prompt, chosen, rejected, with ``p_chosen`` beside them.

    Where a prompt has turns, all texts are messages, the form to which TRL applies a chat template. A
    soft label becomes a hard one there, so ties are left out and counted, too. ``with_margin`` adds
    ``margin``, the log-odds of ``p_chosen`` in nats (null where infinite), which TRL's RewardTrainer
    subtracts inside its loss: it changes what is trained.
    """
    has_turns = any(pair.messages for pair in pairs)

    def row(pair: Preference) -> dict[str, object]:
        p_first = pair.p_first or 0.0
        sides = (pair.first, pair.second) if p_first > 0.5 else (pair.second, pair.first)
        p = max(p_first, 1 - p_first)
        texts: list[object] = [pair.prompt, *sides]
        if has_turns:
            turns = [pair.messages or [Message("user", pair.prompt)]]
            turns += [[Message("assistant", side)] for side in sides]
            texts = [list(map(asdict, each)) for each in turns]
        found = dict(zip(TEXTS.names, (*texts, p), strict=True))
        odds = math.log(p / (1 - p)) if p < 1 else None
        return found | {"margin": odds} if with_margin else found

    schema = TURNS if has_turns else TEXTS
    schema = schema.append(pa.field("margin", pa.float64())) if with_margin else schema
    return _exported(schema, pairs, min_margin, row, ties_fit=False)


def _exported(
    schema: pa.Schema,
    pairs: Sequence[Preference],
    min_margin: float,
    row_of: Callable[[Preference], dict[str, object]],
    ties_fit: bool = True,
) -> Exported:
    rows, left_out = [], Counter[str]()
    for pair in pairs:
        if pair.p_first is None:
            left_out[pair.provenance.failure or "unlabeled"] += 1
        elif pair.p_first == 0.5 and not ties_fit:
            left_out["tied"] += 1
        elif abs(pair.p_first - 0.5) < min_margin:
            left_out["close call"] += 1
        else:
            rows.append(row_of(pair))
    return Exported(schema, rows, left_out)


def write_parquet(path: Path, exported: Exported) -> None:
    """Write the rows as one Parquet file, which is the old one or the new one, never a part."""
    with replaced(path) as file:
        pq.write_table(pa.Table.from_pylist(exported.rows, exported.schema), file)
