"""Rewards that are rules, not feedback; with a negative weight each is a penalty."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif_pl.text import shared_ngrams


def shared_4grams(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Share of each response's word 4-grams that a response to another of the prompts has too.

    In ``WeightedRewards`` with a negative weight it holds a policy off the one phrase that a reward
    model likes whatever the prompt says, which neither the KL penalty nor a rule about single
    responses sees; ``evaluate policy`` measures the same (``text.shared_ngrams``). It compares the
    prompts of one call, those that a process samples for an update, so it is lower where a batch is
    spread over several processes.

    Args:
        prompts: Of each response; several responses may have one. ``N``
        responses: ``N`` texts.

    Returns:
        ``N`` numbers in [0, 1]; 0 for a response of fewer than 4 words.
    """
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    shares = shared_ngrams([[responses[n] for n in own] for own in places.values()])
    found = [0.0] * len(responses)
    for own, row in zip(places.values(), shares, strict=True):
        for place, share in zip(own, row, strict=True):
            found[place] = share
    return found
