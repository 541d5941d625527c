"""From revisions to demonstrations for supervised fine-tuning, with an account of what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlaif_pl.data.revisions import HARMFUL, Revision
from rlaif_pl.errors import one_of
from rlaif_pl.types import Prompt

Cut = Literal["sentence", "keep", "drop"]
_LAST_SENTENCE = re.compile(r"^.*[.!?][\"')\]]*(?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """What a policy is fine-tuned on."""

    rows: list[Prompt]  # prompts with references: revisions, then helpful answers
    revised: int  # number of rows that are revisions
    dropped: dict[str, int] = field(default_factory=dict)  # reason to number of responses left out


def whole_sentences(text: str) -> str:
    """Return the text up to its last full sentence; nothing where it has none."""
    found = _LAST_SENTENCE.search(text)
    return found[0].strip() if found else ""


def demonstrations(
    revisions: Sequence[Revision],
    helpful: Sequence[Prompt] = (),
    *,
    only_last: bool = False,
    cut: Cut = "sentence",
) -> Demonstrations:
    """Take all revisions of harmful prompts, or only each one's last, and helpful answers as they are.

    First answers to harmful prompts are never taken, nor revisions that changed nothing: the last is
    then the one before. ``cut`` says what becomes of a response that the length limit cut:
    ``sentence`` ends it with its last full sentence, or leaves out one without, lest a policy learn to
    stop within one; ``keep`` takes it, ``drop`` does not.
    """
    one_of(Cut, cut=cut)
    dropped: Counter[str] = Counter()
    changed = (row for row in revisions if row.failure is None and not row.unchanged)
    last = {(row.group, row.prompt): row.round for row in changed}
    rows: dict[Prompt, None] = {}
    for row in revisions:
        is_revision = row.kind == HARMFUL
        if is_revision and row.round == 0:
            continue
        if row.failure is not None:
            dropped[row.failure] += 1
        elif row.unchanged:
            dropped["unchanged"] += 1
        elif is_revision and only_last and row.round != last[row.group, row.prompt]:
            dropped["not the last"] += 1
        else:
            text = row.response
            if not row.finished and cut != "keep":
                text = whole_sentences(text) if cut == "sentence" else ""
            demonstration = Prompt(row.prompt, row.group, text)
            if not text:
                dropped["cut by the length limit"] += 1
            elif demonstration in rows:
                dropped["repeats an earlier one"] += 1
            else:
                rows[demonstration] = None
    harmful = {(row.group, row.prompt) for row in revisions if row.kind == HARMFUL}
    revised = sum((row.group, row.text) in harmful for row in rows)
    return Demonstrations([*rows, *helpful], revised, dict(dropped))
