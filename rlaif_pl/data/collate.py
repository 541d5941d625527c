"""Records to batches of text; modules tokenize, since each has its own tokenizer.

A filler is a row that is there only so that every rank has as many rows as the others. It must
count nowhere: pairs carry weight 0, prompts ``is_padding``, demonstrations ``is_padding`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlaif_pl.types import (
    ComparisonBatch,
    DemonstrationBatch,
    PairBatch,
    Preference,
    Prompt,
    PromptBatch,
    Provenance,
)


def collate_pairs(
    rows: Sequence[Preference], index: Sequence[int], is_padding: Sequence[bool]
) -> PairBatch:
    """Batch ``N`` labeled preferences; ValueError names the position in ``index`` of an unlabeled one.

    The weight of padding becomes 0.
    """
    targets = []
    for position, row in zip(index, rows, strict=True):
        if row.p_first is None:
            raise ValueError(
                f"expected labeled pairs, row {position} (group {row.group!r}) has no p_first; "
                "label the pairs first"
            )
        targets.append(row.p_first)
    weights = [0.0 if filler else row.weight for row, filler in zip(rows, is_padding, strict=True)]
    return PairBatch(
        prompts=[row.prompt for row in rows],
        first=[row.first for row in rows],
        second=[row.second for row in rows],
        target=torch.tensor(targets, dtype=torch.float32),
        weight=torch.tensor(weights, dtype=torch.float32),
    )


def collate_comparisons(
    rows: Sequence[Preference],
    index: Sequence[int],  # noqa: ARG001 - all collate functions are called alike
    is_padding: Sequence[bool],
) -> ComparisonBatch:
    """Batch pairs, labeled or not, for a labeler; arguments as of ``collate_pairs``."""
    return ComparisonBatch(
        [unlabeled(row) for row in rows], torch.tensor(list(is_padding), dtype=torch.bool)
    )


def unlabeled(pair: Preference) -> Preference:
    """Return a pair without its label and whence that came; who wrote the responses is kept."""
    own = pair.provenance
    provenance = Provenance(own.first_policy, own.second_policy)
    return replace(pair, p_first=None, source=None, provenance=provenance)


def collate_prompts(
    rows: Sequence[Prompt], index: Sequence[int], is_padding: Sequence[bool]
) -> PromptBatch:
    """Batch prompts with the positions that key their sampling noise; see ``collate_pairs``."""
    return PromptBatch(
        prompts=[row.text for row in rows],
        groups=[row.group for row in rows],
        positions=torch.tensor(list(index), dtype=torch.int64),
        is_padding=torch.tensor(list(is_padding), dtype=torch.bool),
    )


def collate_demonstrations(
    rows: Sequence[Prompt], index: Sequence[int], is_padding: Sequence[bool]
) -> DemonstrationBatch:
    """Batch prompts with their references, as ``collate_pairs``; ValueError without one."""
    references = []
    for position, row in zip(index, rows, strict=True):
        if row.reference is None:
            raise ValueError(
                f"expected demonstrations, row {position} (group {row.group!r}) has no reference; "
                "add one or leave the row out"
            )
        references.append(row.reference)
    return DemonstrationBatch(
        prompts=[row.text for row in rows],
        references=references,
        is_padding=torch.tensor(list(is_padding), dtype=torch.bool),
    )
