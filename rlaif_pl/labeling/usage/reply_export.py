"""Replies as JSON lines or Parquet, to look at with other tools."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif_pl.data.disk import replaced
from rlaif_pl.data.files import write_lines
from rlaif_pl.labeling.usage.reply_store import ROW, ReplyStore

BATCH = 1024  # rows of a Parquet row group
KINDS = {"logprobs": pa.list_(pa.float64()), "finished": pa.bool_()}
KINDS |= dict.fromkeys(("read_tokens", "written_tokens", "attempts"), pa.int64())
KINDS |= dict.fromkeys(("cost_usd", "seconds", "created"), pa.float64())
SCHEMA = pa.schema([(name, KINDS.get(name, pa.string())) for name in ROW])


def export_replies(store: ReplyStore, path: str | Path) -> int:
    """Write a store to .jsonl or .parquet, at once; return its rows. ``ValueError``: another ending."""
    target = Path(path)
    if target.suffix == ".jsonl":
        write_lines(target, (json.dumps(row, ensure_ascii=False) for row in store.rows()))
    elif target.suffix == ".parquet":
        with replaced(target) as file, pq.ParquetWriter(file, SCHEMA) as writer:
            rows = store.rows()
            while part := list(itertools.islice(rows, BATCH)):
                writer.write_table(pa.Table.from_pylist(part, SCHEMA))
    else:
        raise ValueError(f"expected a file ending in .jsonl or .parquet, got {target}")
    return len(store)
