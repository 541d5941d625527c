"""The layers of a decoder, whole or cut in two: packed, a token at a time, or as the library runs them.

``split`` cuts the decoder of a causal LM after its first k layers. The lower part (the trunk:
embeddings and k layers) is frozen and may be shared; the upper part (the top: the other layers and
the final norm) is what a role trains. Both stay ordinary transformers models, so attention, rotary
positions and caches are the library's own. Architectures that do more between embedding and first layer
than add or look up (Gemma scales, GPT-2 adds positions) are caught by a self-test, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from typing_extensions import override

from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.capabilities import Capabilities, probe_capabilities
from rlaif_pl.engine.decoder_layers import EMBEDDINGS, final_norm_name, keep_layers, layers_of
from rlaif_pl.engine.forward import decode_step, packed_forward, plain_forward
from rlaif_pl.engine.kv_cache import KVCache
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids


class DecoderRunner(nn.Module):
    """Consecutive layers of one decoder behind a few calls."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        self._followed: list[DecoderRunner] = []  # in a list, so that it is no part of this module
        self._capabilities: dict[tuple[str, torch.dtype], Capabilities] = {}
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
        weight = next(self.decoder.parameters())
        kind, dtype = weight.device.type, self.computes_in or weight.dtype
        if self.computes_in is None and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        if (kind, dtype) not in self._capabilities:
            self._capabilities[kind, dtype] = probe_capabilities(self.decoder, dtype)
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

        Args:
            inputs: Token ids ``(N, T)`` int64, or hidden states ``(N, T, D)``; padded on the right.
            is_real: True where there is a token, cached and new ones. ``(N, C + T)``
            positions: Place of each token in its own text. ``(N, T)`` int64
            cache: The library's cache of ``C`` earlier tokens; extended in place.
        """
        return plain_forward(self.decoder, self._entering(inputs), is_real, positions, cache)

    def new_cache(self) -> DynamicCache:
        """Return an empty cache of the library's."""
        return DynamicCache(config=self.decoder.config)

    def packed_forward(
        self,
        inputs: Tensor,
        batch: PackedBatch,
        output_places: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run a packed batch, where ``capabilities.packs``; hidden states ``(T, D)``.

        Args:
            inputs: Token ids ``(T,)`` int64, or hidden states ``(T, D)``.
            batch: Their layout.
            output_places: Places whose states are used, none of them in the first level; the last layer
                computes only keys and values of all others, whose states mean nothing. None for all.
            cache: Keeps the keys and values.
        """
        if self.recomputes or not self.capabilities.prunes:
            output_places = None  # the backward pass would recompute all places
        return packed_forward(
            self.decoder, self._entering(inputs), batch, output_places, cache=cache
        )

    def decode_step(self, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Run one new token of each text in a forked cache; see ``forward.decode_step``."""
        return decode_step(self.decoder, self._entering(inputs), positions, cache)

    def _entering(self, inputs: Tensor) -> Tensor:
        """Bring hidden states of layers in another type to this one's; ids stay."""
        if not inputs.is_floating_point():
            return inputs
        return inputs.to(next(self.decoder.parameters()).dtype)


def split(
    decoder: PreTrainedModel, trunk_layers: int
) -> tuple[DecoderRunner | None, DecoderRunner]:
    """Cut a decoder into a frozen trunk and a top.

    Args:
        decoder: Decoder without head; consumed (its layers are re-indexed).
        trunk_layers: Layers in the trunk; 0 gives no trunk and the whole decoder as top.

    Returns:
        ``(trunk, top)``: token ids to raw hidden states, and those (or token ids when there is no
        trunk) to states after the final norm.

    Raises:
        ValueError: ``trunk_layers`` is out of range, or running the two parts one after the other
            does not give what the whole decoder gives.
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
    setattr(lower, final_norm_name(decoder), nn.Identity())
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
