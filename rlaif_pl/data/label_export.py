"""Labels as tables that other programs read: Parquet or JSON lines, soft or chosen/rejected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif_pl.data.disk import replaced
from rlaif_pl.types import Preference, Provenance

ExportLayout = Literal["soft", "trl"]
NUMBERS = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
SOFT = pa.schema(
    [
        ("prompt", pa.string()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("p_first", pa.float64()),
        ("weight", pa.float64()),
        ("source", pa.string()),
        ("group", pa.string()),
        *((field.name, NUMBERS[field.type.split(" | ")[0]]) for field in fields(Provenance)),
    ]
)
TRL = pa.schema(
    [
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("p_chosen", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of an export, with an account of what is not in it."""

    schema: pa.Schema  # names and types of the columns
    rows: list[dict[str, object]]  # the rows
    left_out: Mapping[str, int]  # pairs that are not in it, by reason


def soft_rows(pairs: Sequence[Preference], min_margin: float = 0.0) -> Exported:
    """Return labels as they are, ties included, with their provenance in columns of their own.

    Left out and counted: pairs without a label, or with ``|p - 0.5|`` below ``min_margin`` (0 to 0.5).
    """
    rows: list[dict[str, object]] = []
    left_out: dict[str, int] = {}
    for pair in pairs:
        reason = _reason(pair, min_margin, ties_fit=True)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        flat = asdict(pair)
        flat |= flat.pop("provenance")
        # numbers that are not finite become null
        lost = {n for n, v in flat.items() if isinstance(v, float) and not math.isfinite(v)}
        rows.append({name: None if name in lost else flat[name] for name in SOFT.names})
    return Exported(SOFT, rows, left_out)


def trl_rows(
    pairs: Sequence[Preference], min_margin: float = 0.0, with_margin: bool = False
) -> Exported:
    """Return labels in TRL's columns: prompt, chosen, rejected, with ``p_chosen`` beside them.

    A soft label becomes a hard one there, so ties have no place and are left out and counted.

    Args:
        pairs: Preferences.
        min_margin: Leave out labels with ``|p - 0.5|`` below this, in [0, 0.5].
        with_margin: Add ``margin``, the log-odds of ``p_chosen`` in nats (null where infinite), which
            TRL's RewardTrainer subtracts inside its loss: it changes what is trained.
    """
    rows: list[dict[str, object]] = []
    left_out: dict[str, int] = {}
    for pair in pairs:
        reason = _reason(pair, min_margin, ties_fit=False)
        if reason is not None or pair.p_first is None:
            left_out[reason or "unlabeled"] = left_out.get(reason or "unlabeled", 0) + 1
            continue
        is_first = pair.p_first > 0.5
        p_chosen = pair.p_first if is_first else 1 - pair.p_first
        row: dict[str, object] = {
            "prompt": pair.prompt,
            "chosen": pair.first if is_first else pair.second,
            "rejected": pair.second if is_first else pair.first,
            "p_chosen": p_chosen,
        }
        if with_margin:
            row["margin"] = math.log(p_chosen / (1 - p_chosen)) if p_chosen < 1 else None
        rows.append(row)
    schema = TRL.append(pa.field("margin", pa.float64())) if with_margin else TRL
    return Exported(schema, rows, left_out)


def write_parquet(path: Path, exported: Exported) -> None:
    """Write the rows as one Parquet file, which is the old one or the new one, never a part."""
    with replaced(path) as file:
        pq.write_table(pa.Table.from_pylist(exported.rows, exported.schema), file)


def _reason(pair: Preference, min_margin: float, *, ties_fit: bool) -> str | None:
    if pair.p_first is None:
        return pair.provenance.failure or "unlabeled"
    if pair.p_first == 0.5 and not ties_fit:
        return "tied"
    return "close call" if abs(pair.p_first - 0.5) < min_margin else None
