"""Rankings as preferences: votes on every two responses, as a reward model learns them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.evaluation.human.ranked import Ranked
from rlaif_pl.evaluation.human.readers import PEOPLE, Readers
from rlaif_pl.types import Preference, Provenance

EMPTY = "empty response"


def preferences_of(
    ranked: Sequence[Ranked], seed: int = 0, readers: Readers = PEOPLE
) -> tuple[list[Preference], dict[str, int]]:
    """Return a preference for every two responses that raters of one kind ranked.

    ``p_first`` is the share of raters who put the first above the second; a tie counts half, and an
    even split is one half.
    Which stands first is drawn, so that the side does not tell the policy.

    Args:
        ranked: What they said.
        seed: Draws the sides.
        readers: Who they are.

    Returns:
        Preferences whose source is ``human`` for people and ``reading`` for models, and why others were
        left out, with their number.
    """
    found: list[Preference] = []
    left_out: Counter[str] = Counter()
    for each in ranked:
        task = each.task
        for pair in combinations(range(len(task.items)), 2):
            texts = [task.items[n].text for n in pair]
            if not all(text.strip() for text in texts):
                left_out[EMPTY] += 1
                continue
            i, j = pair if chosen_is_first(seed, task.id, *texts) else pair[::-1]
            first, second = task.items[i], task.items[j]
            provenance = Provenance(
                first_policy=", ".join(first.policies),
                second_policy=", ".join(second.policies),
                labeler=f"{len(each.ranks)} {readers.plural}",
                strategy="human" if readers is PEOPLE else "blind_ranking",
            )
            found.append(
                Preference(
                    task.prompt,
                    first.text,
                    second.text,
                    task.group,
                    p_first=each.share(i, j),
                    source=readers.source,
                    provenance=provenance,
                )
            )
    return found, dict(left_out)
