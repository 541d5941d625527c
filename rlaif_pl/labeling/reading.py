"""Log-likelihoods of targets after contexts, with as few tokens computed as are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.labeling.local import LocalModel, buckets
from rlaif_pl.models.causal import taken_logprobs
from rlaif_pl.models.encoding import assemble, pad_right
from rlaif_pl.models.shared_prefix import run

FAMILY = 16  # targets read after one context at a time

Row = tuple[list[int], list[int]]  # context, target


def read_targets(
    model: LocalModel, rows: Sequence[Row], batch_tokens: int
) -> list[tuple[float, int]]:
    """Return log-likelihood in nats and token count of each target.

    Args:
        model: Who reads.
        rows: Contexts with targets, in any order; a context that several share is read once.
        batch_tokens: Most tokens in one forward pass, padding included.
    """
    values: list[tuple[float, int]] = [(math.nan, 0)] * len(rows)
    alone, shared = by_context(rows)
    for group in buckets([size_of(rows[i]) for i in alone], batch_tokens):
        chosen = [alone[i] for i in group]
        sums = read_plain(model, [rows[i][0] for i in chosen], [rows[i][1] for i in chosen])
        for i, value in zip(chosen, sums, strict=True):
            values[i] = (value, len(rows[i][1]))
    for families in shared.values():
        sizes = [
            len(rows[family[0]][0]) + sum(len(rows[i][1]) for i in family) for family in families
        ]
        for group in buckets(sizes, batch_tokens):
            chosen = [i for n in group for i in families[n]]
            contexts = [rows[families[n][0]][0] for n in group]
            sums = read_shared(model, contexts, [rows[i][1] for i in chosen])
            for i, value in zip(chosen, sums, strict=True):
                values[i] = (value, len(rows[i][1]))
    return values


@torch.no_grad()
def read_shared(
    model: LocalModel, contexts: Sequence[list[int]], targets: Sequence[list[int]]
) -> list[float]:
    """As ``read_plain`` for ``G`` contexts with ``K`` targets each, those of a context together."""
    batch = assemble(contexts, targets, model.pad).to(model.device)
    hidden = run(model.stack, batch).continuation
    logprobs: Tensor = taken_logprobs(
        hidden[:, :-1],
        model.head,  # type: ignore[arg-type]
        batch.response_ids,
        batch.is_response,
        temperature=1.0,
    )
    return [float(value) for value in logprobs.double().sum(1)]


@torch.no_grad()
def read_plain(
    model: LocalModel, contexts: Sequence[list[int]], targets: Sequence[list[int]]
) -> list[float]:
    """Log-likelihoods of one batch's targets; logits exist for those tokens only."""
    rows = [[*context, *target] for context, target in zip(contexts, targets, strict=True)]
    ids, is_real = (part.to(model.device) for part in pad_right(rows, model.pad))
    starts = torch.tensor([len(context) for context in contexts], device=ids.device)
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    is_target = is_real & (places >= starts[:, None])
    hidden = model.stack(ids, is_real, places)
    logprobs: Tensor = taken_logprobs(
        hidden[:, :-1],
        model.head,  # type: ignore[arg-type]
        ids[:, 1:],
        is_target[:, 1:],
        temperature=1.0,
    )
    return [float(value) for value in logprobs.double().sum(1)]


def by_context(rows: Sequence[Row]) -> tuple[list[int], dict[int, list[list[int]]]]:
    """Find rows with equal contexts.

    Returns:
        Indices of rows whose context no other row has, and families of rows with one context, by
        their number of members (at most ``FAMILY``).
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (context, _) in enumerate(rows):
        groups.setdefault(tuple(context), []).append(i)
    alone: list[int] = []
    shared: dict[int, list[list[int]]] = {}
    for members in groups.values():
        for start in range(0, len(members), FAMILY):
            family = members[start : start + FAMILY]
            if len(family) == 1:
                alone += family
            else:
                shared.setdefault(len(family), []).append(family)
    return alone, shared


def size_of(row: Row) -> int:
    """Tokens of a context with its target."""
    return len(row[0]) + len(row[1])
