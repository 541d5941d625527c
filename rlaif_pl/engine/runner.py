"""The layers of a decoder, whole or cut in two: packed, a token at a time, or as the library does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from typing_extensions import override

from rlaif_pl.engine.attention.segments import KVCache
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.capabilities import Capabilities, probe_capabilities
from rlaif_pl.engine.decoder_layers import (
    EMBEDDINGS,
    FINAL_NORMS,
    PackedContext,
    keep_layers,
    layers_of,
    name_of,
    prune_last_layer,
)
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids


class DecoderRunner(nn.Module):
    """Consecutive layers of one decoder behind a few calls."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        self._followed: list[DecoderRunner] = []  # in a list, so that it is no part of this module
        self._capabilities: dict[tuple[str, torch.dtype], Capabilities] = {}
        self.assumed: Capabilities | None = None  # while the others are tried
        # Type it computes in, where neither weights nor autocast say so.
        self.computes_in: torch.dtype | None = None

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return int(self.decoder.config.get_text_config().num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    @property
    def capabilities(self) -> Capabilities:
        """What the decoder computes right here; tried on the first call, once a device and type.

        The type is the one that it computes in: autocast runs weights of 32 bits in 16.
        """
        if self.assumed is not None:
            return self.assumed
        weight = next(self.decoder.parameters())
        kind, dtype = weight.device.type, self.computes_in or weight.dtype
        if self.computes_in is None and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        if (kind, dtype) not in self._capabilities:
            self._capabilities[kind, dtype] = probe_capabilities(self, dtype)
        return self._capabilities[kind, dtype]

    @property
    def recomputes(self) -> bool:
        """Whether layers recompute their activations in the backward pass."""
        return any(
            module.training and getattr(module, "gradient_checkpointing", False)
            for runner in (self, *self._followed)
            for module in runner.decoder.modules()
        )

    def follow(self, other: DecoderRunner) -> None:
        """Run batches the way that another runner does, so that equal weights round alike."""
        self._followed = [other]

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Rotary frequencies are no weights: in 16 bits (bf16-true) far positions turn to others.
        exact = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.dtype == torch.float32
        ]
        super()._apply(fn, recurse)
        for module, name, buffer in exact:
            moved = module._buffers[name]
            if moved is not None and moved.dtype in (torch.bfloat16, torch.float16):
                module._buffers[name] = buffer.to(moved.device)
        return self

    def forward(
        self, inputs: Tensor, is_real: Tensor, positions: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        """Run whole texts, or their next tokens, as the library does. ``(N, T, D)``.

        Takes ids ``(N, T)`` int64 or states ``(N, T, D)``, padded on the right, each token's place in
        its own text ``(N, T)``, and the library's cache of ``C`` earlier tokens, extended in place.
        ``is_real`` is True where there is a token, cached and new ones, ``(N, C + T)``.
        """
        known = inspect.signature(self.decoder.forward).parameters
        held = "cache" if "cache" in known else "past_key_values"  # transformers 5.24 renames it
        options = {held: cache, "use_cache": cache is not None}
        return self._run(inputs, positions, is_real.long(), **options)

    def packed_forward(
        self,
        inputs: Tensor,
        batch: PackedBatch,
        output_places: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run ids ``(T,)`` or states of a packed batch, where ``capabilities.packs``. ``(T, D)``.

        Of ``output_places`` alone, none of them in the first level, states are used: of all others the
        last layer computes only keys and values, and their states mean nothing. None for all places.
        """
        if self.recomputes or not self.capabilities.prunes:
            output_places = None  # the backward pass would recompute all places
        with prune_last_layer(self.decoder, output_places, len(inputs)):
            context = PackedContext(batch, cache)
            return self._run(inputs[None], batch.positions[None], packed=context)[0]

    def decode_step(self, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Run ids ``(n, 1)`` or states of a token a text, and extend a forked cache. ``(n, 1, D)``."""
        states = self._run(inputs, positions, packed=PackedContext(None, cache))
        cache.length += 1
        return states

    def _run(
        self, inputs: Tensor, positions: Tensor, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        if mask is None:  # packed: one of four dimensions is handed down as it is, and not read
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
        if inputs.is_floating_point():  # states, maybe of layers in another type
            options["inputs_embeds"] = inputs.to(next(self.decoder.parameters()).dtype)
        else:
            options["input_ids"] = inputs
        options.setdefault("use_cache", False)
        output = self.decoder(attention_mask=mask, position_ids=positions, **options)
        return cast(Tensor, output.last_hidden_state)


def split(
    decoder: PreTrainedModel, trunk_layers: int
) -> tuple[DecoderRunner | None, DecoderRunner]:
    """Cut a decoder without head, which is consumed, into a frozen trunk and a top.

    The trunk has the embeddings and the first ``trunk_layers``, and may be shared; the top, which a
    role trains, makes states after the final norm of the trunk's. With 0 layers the top is the whole.
    Both stay ordinary transformers models. ValueError where the number is out of range, or the parts do
    not give what the whole gives: where more is done between embedding and first layer than add or look
    up (GPT-2 adds positions).
    """
    if trunk_layers == 0:
        return None, DecoderRunner(decoder)
    total = len(layers_of(decoder))
    if not 0 <= trunk_layers < total:
        raise ValueError(
            f"trunk_layers must be in [0, {total - 1}] for this model, got {trunk_layers}"
        )
    device = next(decoder.parameters()).device
    ids = word_ids(int(decoder.config.get_text_config().vocab_size), 16, device).view(2, 8)
    texts = torch.ones_like(ids, dtype=torch.bool), torch.arange(8, device=device).expand(2, 8)
    decoder.eval()
    with torch.no_grad():
        whole = DecoderRunner(decoder)(ids, *texts).flatten(0, 1)
    lower, upper = keep_layers(decoder, 0, trunk_layers), keep_layers(decoder, trunk_layers, total)
    setattr(lower, name_of(decoder, FINAL_NORMS), nn.Identity())
    trunk, top = DecoderRunner(lower).requires_grad_(False), DecoderRunner(upper)

    def parts() -> Tensor:
        return top(trunk(ids, *texts), *texts).flatten(0, 1)

    with torch.no_grad():
        error = error_in_noise(whole, parts(), parts, lower)
    if not error <= FACTOR:
        raise ValueError(
            f"expected the trunk and the top of {type(decoder).__name__} to reproduce the whole model, "
            f"got states off by {error:.1e} times its rounding; this architecture cannot be cut: use "
            "trunk_layers=0"
        )
    for name in EMBEDDINGS:  # the top is only ever given hidden states
        if hasattr(upper, name):
            setattr(upper, name, None)
    return trunk, top
