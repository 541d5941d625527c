"""Find out which ways of running a decoder give what it gives for each text alone, by trying them.

An architecture may look at other tokens elsewhere than in attention (convolutions, recurrent layers),
or attend in another way than by scale, window and soft cap. No list of names would stay complete, so a
few short texts are run in each way, and alone in the model's own way. What "right" means on the machine
at hand is up to the model's own noise (``noise``).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from rlaif_pl.engine.attention.dispatch import redirect
from rlaif_pl.engine.batch import Segment, pack_segments
from rlaif_pl.engine.decoder_layers import (
    embedding_of,
    has_window,
    keep_softcap,
    unpackable_layers,
)
from rlaif_pl.engine.forward import decode_step, eval_mode, packed_forward, plain_forward
from rlaif_pl.engine.kv_cache import KVCache
from rlaif_pl.engine.noise import FACTOR, Noise, change_last_bits, wide, with_noise, word_ids

PREFIXES = 4, 2  # tokens of two prompts
CONTINUATIONS = 3, 1, 2, 3  # and of two texts that go on from each
# What an architecture raises that cannot be run in a way.
PROBE_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
# RuntimeErrors of the machine: a full GPU or a broken one says nothing of an architecture.
MACHINE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)

_noticed: set[str] = set()  # architectures whose fallback was reported


class Capabilities(NamedTuple):
    """Ways of running a decoder that give what it gives for each text alone.

    Attributes:
        packs: Packed batches.
        prunes: Packed batches with the last layer at some places only.
        decodes: One token a text over one copy of each prompt's keys.
        caches: The library's cache, for prompts of one length.
        pads: Whole texts, padded on the right.
        reason: Why it does not pack; None where it does.
    """

    packs: bool = True
    prunes: bool = True
    decodes: bool = True
    caches: bool = True
    pads: bool = True
    reason: str | None = None


@torch.no_grad()
def probe_capabilities(decoder: PreTrainedModel, dtype: torch.dtype | None = None) -> Capabilities:
    """Try the ways a decoder can be run in; where it cannot pack, one line an architecture says so.

    Its layers are left with our attention function in front of their own, if it packs, else as before.

    Args:
        decoder: What is tried.
        dtype: Type it computes in where that is not its weights' (autocast): attention has other
            implementations there. Tried on a copy, which is gone afterwards.
    """
    keep_softcap(decoder)
    before = redirect(decoder)
    weight = next(decoder.parameters())
    tried = decoder if dtype in (None, weight.dtype) else _copy_in(decoder, dtype)
    with eval_mode(tried), torch.autocast(weight.device.type, enabled=False):
        found = _probe(tried)
    del tried
    if found.packs:
        return found
    for module, config in before:
        module.config = config
    name = type(decoder).__name__
    if name not in _noticed:
        _noticed.add(name)
        way = "padded batches" if found.pads else "texts of one length"
        warnings.warn(
            f"{name} cannot run texts packed without padding ({found.reason}); it runs {way}, "
            "each prompt once a response",
            stacklevel=2,
        )
    return found


def _copy_in(decoder: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    weights = {
        id(weight): nn.Parameter(weight.to(dtype) if weight.is_floating_point() else weight, False)
        for weight in decoder.parameters()
    }
    return copy.deepcopy(decoder, weights)


def _probe(decoder: PreTrainedModel) -> Capabilities:
    probe = _Probe(decoder)
    windows: set[int | None] = set()
    reason = unpackable_layers(decoder) or probe.fault(lambda: probe.packed(windows))
    if reason is None and has_window(decoder) and windows <= {None}:
        reason = "its attention does not say its sliding window"
    if reason is None:
        # Only keys and values tie tokens together, so padding and the library's cache are right.
        return Capabilities(
            prunes=probe.fault(probe.pruned) is None, decodes=probe.fault(probe.decoded) is None
        )
    caches, pads = (probe.fault(way) is None for way in (probe.cached, probe.padded))
    return Capabilities(False, False, False, caches, pads, reason)


class _Probe:
    """Four texts of two prompts, what the decoder gives for each alone, and the ways to run them.

    A way gives the states of the last tokens of each text.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        self.decoder = decoder
        weight = next(decoder.parameters())
        self.device = weight.device
        levels = [
            [Segment(length) for length in PREFIXES],
            [Segment(length, n // 2) for n, length in enumerate(CONTINUATIONS)],
        ]
        self.batch = pack_segments(levels, self.device)
        total, config = len(self.batch), decoder.config.get_text_config()
        if embedding_of(decoder) is not None:
            self.inputs = word_ids(int(config.vocab_size), total, self.device)
        else:  # the upper part of a decoder that was cut
            seed = torch.Generator().manual_seed(0)
            size, exact = (total, int(config.hidden_size)), torch.float32
            self.inputs = torch.randn(size, generator=seed, dtype=exact).to(weight)
        places = torch.arange(total, device=self.device).split(self.batch.lengths)
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
            rows = change_last_bits(rows)
        noisy = with_noise(lambda: self.run(rows), self.decoder)
        cut = [row[: len(text)] for row, text in zip(noisy, self.texts, strict=True)]
        return Noise(torch.cat(alone), torch.cat(cut))

    def run(
        self, inputs: Tensor, mask: Tensor | None = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """Run ids ``(N, T)`` or states ``(N, T, D)`` the way the model itself does.

        ``mask`` is True where a cached or new token is real, ``(N, C + T)``; None where all are new.
        """
        if mask is None:
            mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        return plain_forward(self.decoder, inputs, mask, positions, cache)

    def fault(self, way: Callable[[], Sequence[Tensor]]) -> str | None:
        """Say what is wrong with a way; None where nothing is."""
        try:
            found, end = self.noise.exact.clone(), 0
            for text, states in zip(self.texts, way(), strict=True):
                end += len(text)
                found[end - len(states) : end] = wide(states)
            error = self.noise.error_of(found)
        except MACHINE_ERRORS:
            raise
        except PROBE_ERRORS as wrong:
            why = str(wrong).partition("\n")[0]
            return why if type(wrong) is ValueError else f"{type(wrong).__name__}: {why}"
        return None if error <= FACTOR else f"its states are off by {error:.1e} times its rounding"

    def packed(self, windows: set[int | None] | None = None) -> list[Tensor]:
        """Run all in one row without padding; the windows that attention asks for are noted."""
        states = packed_forward(self.decoder, self.inputs, self.batch, windows=windows)
        return [states[text] for text in self.texts]

    def pruned(self) -> list[Tensor]:
        """Run the same, with the last layer at the texts' own tokens only."""
        states = packed_forward(self.decoder, self.inputs, self.batch, torch.cat(self.own))
        return [states[own] for own in self.own]

    def decoded(self) -> list[Tensor]:
        """Run a token a text at a time over one copy of each prompt's keys; texts leave as they end."""
        batch = pack_segments([self.batch.levels[0]], self.device)
        cache = KVCache(batch)
        packed_forward(self.decoder, self.inputs[torch.cat(self.prompts)], batch, cache=cache)
        rows = list(range(len(self.own)))
        cache.fork([n // 2 for n in rows], max(CONTINUATIONS))
        states: list[list[Tensor]] = [[] for _ in rows]
        for step in range(max(CONTINUATIONS)):
            kept = [n for n, text in enumerate(rows) if step < CONTINUATIONS[text]]
            if len(kept) < len(rows):
                cache.select_rows(kept, torch.tensor(kept, device=self.device))
                rows = [rows[n] for n in kept]
            places = torch.stack([self.own[text][step] for text in rows])[:, None]
            positions = self.batch.positions[places]
            found = decode_step(self.decoder, self.inputs[places], positions, cache)
            for text, state in zip(rows, found, strict=True):
                states[text].append(state[0])
        return [torch.stack(text) for text in states]

    def padded(self) -> list[Tensor]:
        """Run whole texts, padded on the right."""
        rows = pad_sequence(self.texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in self.texts], device=self.device)
        mask = torch.arange(rows.shape[1], device=self.device) < lengths[:, None]
        states = self.run(self.inputs[rows], mask)
        return [row[: len(text)] for row, text in zip(states, self.texts, strict=True)]

    def cached(self) -> list[Tensor]:
        """Run one token a text at a time over the library's cache, prompts of one length together."""
        results: list[Tensor] = []
        for number, prompt in enumerate(self.prompts):
            own = self.own[2 * number : 2 * number + 2]
            cache = DynamicCache(config=self.decoder.config)
            self.run(self.inputs[torch.stack([prompt, prompt])], None, cache)
            # A text that has ended stays in the batch; what it gets then means nothing.
            states = []
            for step, column in enumerate(pad_sequence(list(own), batch_first=True).T):
                size = 2, len(prompt) + step + 1
                mask = torch.ones(size, dtype=torch.bool, device=self.device)
                states.append(self.run(self.inputs[column[:, None]], mask, cache)[:, 0])
            both = torch.stack(states, 1)
            results += [row[: len(text)] for row, text in zip(both, own, strict=True)]
        return results
