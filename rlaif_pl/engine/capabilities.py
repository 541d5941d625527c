"""Find out which ways of running a decoder give what it gives for each text alone, by trying them.

No list of architectures would stay complete, so a few short texts are run in each way, and alone in the
model's own way. What "right" means on the machine at hand is up to the model's own ``noise``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl.engine.batch import pack_segments
from rlaif_pl.engine.decoder_layers import (
    embedding_of,
    eval_mode,
    has_window,
    keep_softcap,
    redirect,
    unpackable_layers,
)
from rlaif_pl.engine.generation_state import EqualLengthState, GenerationState, PackedState
from rlaif_pl.engine.noise import FACTOR, Noise, change_last_bits, wide, with_noise, word_ids
from rlaif_pl.engine.response_batch import ResponseBatch, hidden_states

if TYPE_CHECKING:
    from rlaif_pl.engine.runner import DecoderRunner

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
def probe_capabilities(runner: DecoderRunner, dtype: torch.dtype) -> Capabilities:
    """Try the ways a decoder can be run in; where it cannot pack, one line an architecture says so.

    Its layers are left with our attention function in front of their own, if it packs, else as before.
    Where ``dtype``, which it computes in, is not its weights' (autocast), a copy is tried.
    """
    decoder = tried = runner.decoder
    keep_softcap(decoder)
    before = redirect(decoder)
    if dtype != next(decoder.parameters()).dtype:
        made = {
            id(p): nn.Parameter(p.to(dtype) if p.is_floating_point() else p, False)
            for p in decoder.parameters()
        }
        tried = copy.deepcopy(decoder, made)
    with eval_mode(tried), torch.autocast(runner.device.type, enabled=False):
        found = _Probe(type(runner)(tried)).capabilities()
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
            stacklevel=3,
        )
    return found


class _Probe:
    """Four texts of two prompts, and ways to run them, which give states of the row's last tokens."""

    def __init__(self, runner: DecoderRunner) -> None:
        self.runner, self.decoder, self.device = runner, runner.decoder, runner.device
        self.model = SimpleNamespace(trunk=None, top=runner, logits=lambda hidden: hidden)
        rows = [tuple([0] * length for length in part) for part in (PREFIXES, CONTINUATIONS)]
        self.batch = ResponseBatch(rows[0], rows[1], max(CONTINUATIONS), 0, self.device)
        layout, config = self.batch.layout, self.decoder.config.get_text_config()
        total = len(layout)
        if embedding_of(self.decoder) is not None:
            self.inputs = word_ids(int(config.vocab_size), total, self.device)
        else:  # the upper part of a decoder that was cut
            seed, size = torch.Generator().manual_seed(0), (total, int(config.hidden_size))
            exact = torch.randn(size, generator=seed, dtype=torch.float32)
            self.inputs = exact.to(next(self.decoder.parameters()))
        places = torch.arange(total, device=self.device).split(layout.lengths)
        self.prompts, self.own = places[:2], places[2:]
        self.texts = [torch.cat([self.prompts[n // 2], own]) for n, own in enumerate(self.own)]

    def capabilities(self) -> Capabilities:
        whole = partial(hidden_states, self.runner, self.batch, self.inputs)
        can = Capabilities()
        reason = unpackable_layers(self.decoder) or self.fault(can, whole)
        if reason is None and has_window(self.decoder) and self.batch.layout.windows <= {None}:
            reason = "its attention does not say its sliding window"
        if reason is None:
            # Only keys and values tie tokens together, so padding and the library's cache are right.
            pruned = partial(whole, torch.cat(self.own))
            can = can._replace(prunes=self.fault(can, pruned) is None)
            return can._replace(decodes=self.fault(can, self.decoded) is None)
        can = Capabilities(False, False, False, reason=reason)
        caches, pads = (self.fault(can, way) is None for way in (self.cached, whole))
        return can._replace(caches=caches, pads=pads)

    def fault(self, can: Capabilities, way: Callable[[], Tensor]) -> str | None:
        """Say what is wrong with a way of a runner that has capabilities; None where nothing is."""
        self.runner.assumed = can
        try:
            found, places, states = self.noise.exact.clone(), torch.cat(self.texts), wide(way())
            first = len(self.inputs) - len(states)
            found[places >= first] = states[places[places >= first] - first]
            error = self.noise.error_of(found)
        except MACHINE_ERRORS:
            raise
        except PROBE_ERRORS as wrong:
            why = str(wrong).partition("\n")[0]
            return why if type(wrong) is ValueError else f"{type(wrong).__name__}: {why}"
        return None if error <= FACTOR else f"its states are off by {error:.1e} times its rounding"

    @cached_property
    def noise(self) -> Noise:
        """Noise of the states of all texts, one after the other."""
        alone = [self.plain(self.inputs[text][None])[0] for text in self.texts]
        # What goes on after a text makes all equally long; a causal model does not see it.
        long = max(map(len, self.texts))
        rows = self.inputs[torch.stack([torch.cat([t, t.flip(0)])[:long] for t in self.texts])]
        if rows.is_floating_point():
            rows = change_last_bits(rows)
        noisy = with_noise(lambda: self.plain(rows), self.decoder)
        cut = [row[: len(text)] for row, text in zip(noisy, self.texts, strict=True)]
        return Noise(torch.cat(alone), torch.cat(cut))

    def plain(self, inputs: Tensor) -> Tensor:
        is_real = torch.ones(inputs.shape[:2], dtype=torch.bool, device=self.device)
        positions = torch.arange(inputs.shape[1], device=self.device).expand(len(inputs), -1)
        return self.runner(inputs, is_real, positions)

    def decoded(self) -> Tensor:
        batch = pack_segments(self.batch.layout.levels[:1], self.device)
        inputs = self.inputs[torch.cat(self.prompts)]
        state = PackedState(self.model, inputs, batch, [0, 0, 1, 1], max(CONTINUATIONS))
        return self.written(state, self.own)

    def cached(self) -> Tensor:
        found = []
        for prompt, own in zip(self.prompts, (self.own[:2], self.own[2:]), strict=True):
            state = EqualLengthState(self.model, self.inputs[torch.stack([prompt, prompt])])
            found.append(self.written(state, own))
        return torch.cat(found)

    def written(self, state: GenerationState, own: Sequence[Tensor]) -> Tensor:
        """Go on with texts, which leave as they end."""
        rows, found = list(range(len(own))), [list[Tensor]() for _ in own]
        for step in range(max(map(len, own))):
            kept = [n for n, row in enumerate(rows) if step < len(own[row])]
            if len(kept) < len(rows):
                state.select_rows(kept, torch.tensor(kept, device=self.device))
                rows = [rows[n] for n in kept]
            tokens = self.inputs[torch.stack([own[row][step] for row in rows])]
            states = state.next_logits(state.forward_trunk(tokens))
            for row, hidden in zip(rows, states, strict=True):
                found[row].append(hidden)
        return torch.stack([hidden for text in found for hidden in text])
