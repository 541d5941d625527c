"""Columns of the data for rewards that name them, as TRL's reward functions do.

Each further argument of a reward's function, or of its ``score``, takes the column of that name, one
value a response. ``reference`` is one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rlaif_pl.types import PointwiseLabeler, Prompt, Reward

Columns = Mapping[str, Sequence[Any]]  # by name, a value a row
NO_COLUMNS: Columns = {}
KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Asked(NamedTuple):
    """Columns that a reward takes."""

    required: frozenset[str] = frozenset()  # it cannot do without
    optional: frozenset[str] = frozenset()  # it is given where the data have them
    takes_all: bool = False  # whether it is given every other column, too

    def taken(self, columns: Columns, name: str) -> dict[str, Sequence[Any]]:
        """Return the columns to pass on. ``ValueError``: one is not there that ``name`` requires."""
        missing = self.required - columns.keys()
        if missing:
            raise ValueError(_lacks(missing, name, "what is scored", columns))
        named = self.required | self.optional
        return {key: each for key, each in columns.items() if self.takes_all or key in named}


def asked_by(function: Callable[..., Any], texts: Collection[str] = ()) -> Asked:
    """Return what a callable asks for beside prompts and responses (by position, or as ``texts``)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # not every callable can say it
        return Asked()
    bound = getattr(function, "keywords", {})  # of a partial, which no column may replace
    others = [p for p in parameters if p.name not in texts] if texts else parameters[2:]
    asked = [p for p in others if p.kind in KINDS and p.name not in bound]
    required = frozenset(p.name for p in asked if p.default is p.empty)
    optional = frozenset(p.name for p in asked) - required
    return Asked(required, optional, any(p.kind is p.VAR_KEYWORD for p in parameters))


def asks_of(reward: Reward | PointwiseLabeler) -> Asked:
    """Return what a reward asks for: what it says itself (``asks``), or the signature of ``score``."""
    found = getattr(reward, "asks", None)
    return found if isinstance(found, Asked) else asked_by(reward.score)


def score_with(
    reward: Reward | PointwiseLabeler,
    prompts: Sequence[str],
    responses: Sequence[str],
    columns: Columns = NO_COLUMNS,
) -> Any:
    """Score responses ``(N,)`` by a reward that is given what it asks for; see ``Asked.taken``."""
    score: Any = reward.score  # the protocol knows of no columns
    return score(prompts, responses, **asks_of(reward).taken(columns, name_of(reward)))


def columns_of(rows: Sequence[Prompt]) -> dict[str, list[Any]]:
    """Return the columns of some prompts, ``reference`` among them; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    found: dict[str, list[Any]] = {n: [row.columns.get(n) for row in rows] for n in names}
    if any(row.reference is not None for row in rows):
        found["reference"] = [row.reference for row in rows]
    return found


def repeated(columns: Columns, count: int) -> dict[str, list[Any]]:
    """Return the columns of prompts for ``count`` responses to each."""
    return {name: [v for v in values for _ in range(count)] for name, values in columns.items()}


def check_columns(reward: Reward, rows: Sequence[Prompt]) -> None:
    """Refuse prompts that lack a column that a reward requires, before anything is sampled."""
    required = asks_of(reward).required
    for number, row in enumerate(rows if required else ()):
        has = {*row.columns} | ({"reference"} if row.reference is not None else set())
        if missing := required - has:
            where = f"row {number} of the prompts (group {row.group!r})"
            raise ValueError(_lacks(missing, name_of(reward), where, has))


def name_of(reward: object) -> str:
    """What messages and metrics call a reward."""
    return str(getattr(reward, "name", None) or type(reward).__name__)


def _lacks(missing: Collection[str], name: str, where: str, has: Collection[str]) -> str:
    return (
        f"expected the columns {', '.join(sorted(missing))}, which {name} asks for, in {where}, got "
        f"{', '.join(sorted(has)) or 'none beside the text'}; add them to the data, or give the "
        "argument a default"
    )
