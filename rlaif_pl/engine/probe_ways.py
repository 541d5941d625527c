"""Ways of running a decoder, each tried on a few short texts; see ``capabilities``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from rlaif_pl.engine.batch import Segment, pack_segments
from rlaif_pl.engine.forward import decode_step, packed_forward
from rlaif_pl.engine.kv_cache import KVCache
from rlaif_pl.engine.noise import (
    FACTOR,
    PROBE_ERRORS,
    Noise,
    change_last_bits,
    embedding_of,
    noisy_runs,
    wide,
    word_ids,
)

PREFIXES = 4, 2  # tokens of two prompts
CONTINUATIONS = 3, 1, 2, 3  # and of two texts that go on from each


class Probe:
    """Four texts of two prompts, and what the decoder gives for each alone.

    Attributes:
        batch: The texts, packed.
        inputs: Ids ``(T,)``, or states ``(T, D)`` for the upper part of a decoder that was cut.
        prompts: Places of each prompt's tokens.
        own: Places of each text's own tokens, those of one prompt next to each other.
        texts: Places of each text's tokens.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        self.decoder = decoder
        self.device = next(decoder.parameters()).device
        levels = [
            [Segment(length) for length in PREFIXES],
            [Segment(length, n // 2) for n, length in enumerate(CONTINUATIONS)],
        ]
        self.batch = pack_segments(levels, self.device)
        self.inputs = _inputs(decoder, len(self.batch))
        places = torch.arange(len(self.batch), device=self.device).split(self.batch.lengths)
        self.prompts, self.own = places[:2], places[2:]
        self.texts = [torch.cat([self.prompts[n // 2], own]) for n, own in enumerate(self.own)]

    @cached_property
    def noise(self) -> Noise:
        """Noise of the states of all texts, one after the other."""
        alone = [self.run(self.inputs[text][None])[0] for text in self.texts]
        # What goes on after a text makes all equally long; a causal model does not see it.
        long = max(map(len, self.texts))
        rows = self.inputs[torch.stack([torch.cat([t, t.flip(0)])[:long] for t in self.texts])]
        if rows.is_floating_point():
            noisy = self.run(change_last_bits(rows, 0))
        else:
            (noisy,) = noisy_runs(lambda: self.run(rows), self.decoder)
        cut = [row[: len(text)] for row, text in zip(noisy, self.texts, strict=True)]
        return Noise(torch.cat(alone), [torch.cat(cut)])

    def run(
        self, inputs: Tensor, mask: Tensor | None = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """Run ids ``(N, T)`` or states ``(N, T, D)`` the way the model itself does.

        Args:
            inputs: New tokens.
            mask: 1 where a cached or new token is real, ``(N, C + T)``; None where all are new.
            cache: The library's cache of ``C`` tokens; extended in place.
        """
        if mask is None:
            mask = torch.ones(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
        which = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        output = self.decoder(
            **{which: inputs, cache_argument(self.decoder): cache},
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :],
            use_cache=cache is not None,
        )
        states: Tensor = output.last_hidden_state
        return states

    def fault(self, way: Callable[[Probe], Sequence[Tensor]]) -> str | None:
        """Say what is wrong with a way, which gives states of the last tokens of each text; or None."""
        try:
            found, end = self.noise.exact.clone(), 0
            for text, states in zip(self.texts, way(self), strict=True):
                end += len(text)
                found[end - len(states) : end] = wide(states)
            error = self.noise.error_of(found)
        except PROBE_ERRORS as wrong:
            why = str(wrong).partition("\n")[0]
            return why if type(wrong) is ValueError else f"{type(wrong).__name__}: {why}"
        return None if error <= FACTOR else f"its states are off by {error:.1e} times its rounding"


def packed(probe: Probe, windows: set[int | None] | None = None) -> list[Tensor]:
    """Run all in one row without padding; the windows that attention asks for are noted."""
    states = packed_forward(probe.decoder, probe.inputs, probe.batch, windows=windows)
    return [states[text] for text in probe.texts]


def pruned(probe: Probe) -> list[Tensor]:
    """Run the same, with the last layer at the texts' own tokens only."""
    states = packed_forward(probe.decoder, probe.inputs, probe.batch, torch.cat(probe.own))
    return [states[own] for own in probe.own]


def decoded(probe: Probe) -> list[Tensor]:
    """Run one token a text at a time over one copy of each prompt's keys; texts leave as they end."""
    batch = pack_segments([[Segment(length) for length in PREFIXES]], probe.device)
    cache = KVCache(batch)
    packed_forward(probe.decoder, probe.inputs[torch.cat(probe.prompts)], batch, cache=cache)
    cache.fork([n // 2 for n in range(len(probe.own))], max(CONTINUATIONS))
    states: list[list[Tensor]] = [[] for _ in probe.own]
    rows = list(range(len(probe.own)))
    for step in range(max(CONTINUATIONS)):
        kept = [n for n, text in enumerate(rows) if step < CONTINUATIONS[text]]
        if len(kept) < len(rows):
            cache.select_rows(kept)
            rows = [rows[n] for n in kept]
        places = torch.stack([probe.own[text][step] for text in rows])[:, None]
        found = decode_step(
            probe.decoder, probe.inputs[places], probe.batch.positions[places], cache
        )
        for text, state in zip(rows, found, strict=True):
            states[text].append(state[0])
    return [torch.stack(text) for text in states]


def padded(probe: Probe) -> list[Tensor]:
    """Run whole texts, padded on the right."""
    rows = pad_sequence(probe.texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in probe.texts], device=probe.device)
    mask = (torch.arange(rows.shape[1], device=probe.device) < lengths[:, None]).long()
    states = probe.run(probe.inputs[rows], mask)
    return [row[: len(text)] for row, text in zip(states, probe.texts, strict=True)]


def cached(probe: Probe) -> list[Tensor]:
    """Run one token a text at a time over the library's cache, prompts of one length together."""
    results: list[Tensor] = []
    for number, prompt in enumerate(probe.prompts):
        own = probe.own[2 * number : 2 * number + 2]
        cache = DynamicCache(config=probe.decoder.config)
        probe.run(probe.inputs[torch.stack([prompt, prompt])], None, cache)
        # A text that has ended stays in the batch; what it gets then means nothing.
        columns = pad_sequence(list(own), batch_first=True).T
        mask = torch.ones(2, len(prompt), dtype=torch.int64, device=probe.device)
        states = []
        for column in columns:
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            states.append(probe.run(probe.inputs[column[:, None]], mask, cache)[:, 0])
        both = torch.stack(states, 1)
        results += [row[: len(text)] for row, text in zip(both, own, strict=True)]
    return results


def cache_argument(decoder: PreTrainedModel) -> str:
    """Return the name of a decoder's argument for its cache; transformers 5.24 renames it."""
    known = inspect.signature(decoder.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _inputs(decoder: PreTrainedModel, total: int) -> Tensor:
    """Make ids ``(T,)``, or states ``(T, D)`` for the upper part of a decoder that was cut."""
    weight = next(decoder.parameters())
    config = decoder.config.get_text_config()
    if embedding_of(decoder) is not None:
        return word_ids(int(config.vocab_size), total, weight.device)
    states = torch.randn(total, int(config.hidden_size), generator=torch.Generator().manual_seed(0))
    return states.to(weight.device, weight.dtype)
