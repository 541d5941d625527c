"""``export``: preferences in the columns other trainers read."""

from __future__ import annotations

import sys

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.metrics import write_json_lines


def export(preferences: DataSource | str, out: str, min_margin: float = 0.0) -> int:
    """Write labeled preferences as JSON lines with prompt, chosen, rejected and p_chosen.

    A soft label becomes a hard one there, so ties and unlabeled pairs are left out and counted.

    Args:
        preferences: Labeled pairs.
        out: File to write.
        min_margin: Leave out pairs with ``|p - 0.5|`` below this, in [0, 0.5].
    """
    rows = load_preferences(preferences).rows
    lines: list[dict[str, object]] = []
    for row in rows:
        if row.p_first is None or row.p_first == 0.5 or abs(row.p_first - 0.5) < min_margin:
            continue
        is_first = row.p_first > 0.5
        chosen, rejected = (row.first, row.second) if is_first else (row.second, row.first)
        p_chosen = row.p_first if is_first else 1 - row.p_first
        lines.append(
            {"prompt": row.prompt, "chosen": chosen, "rejected": rejected, "p_chosen": p_chosen}
        )
    write_json_lines(out, lines)
    sys.stdout.write(f"{len(lines)} pairs written to {out}, {len(rows) - len(lines)} left out\n")
    return 0
