"""Run the layers of a decoder: packed, a token at a time over a cache, or as padded whole texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from typing_extensions import override

from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.capabilities import Capabilities, probe_capabilities
from rlaif_pl.engine.forward import decode_step, packed_forward, token_inputs
from rlaif_pl.engine.kv_cache import KVCache
from rlaif_pl.engine.probe_ways import cache_argument


class DecoderRunner(nn.Module):
    """Consecutive layers of one decoder behind a few calls.

    Args:
        decoder: A transformers decoder without a language-model head (``LlamaModel`` and the like).
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        self._followed: list[DecoderRunner] = []  # in a list, so that it is no part of this module
        self._capabilities: dict[tuple[str, torch.dtype], Capabilities] = {}

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
        """What the decoder computes right here; tried on the first call, once a device and type."""
        weight = next(self.decoder.parameters())
        key = weight.device.type, weight.dtype
        if key not in self._capabilities:
            self._capabilities[key] = probe_capabilities(self.decoder)
        return self._capabilities[key]

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
        self,
        inputs: Tensor,
        is_real: Tensor,
        positions: Tensor,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Run the layers the way the library does: whole texts, or their next tokens.

        Args:
            inputs: Token ids ``(N, T)`` int64, or hidden states ``(N, T, D)``; padded on the right.
            is_real: True where there is a token, cached and new ones. ``(N, C + T)``
            positions: Place of each token in its own text. ``(N, T)`` int64
            cache: The library's cache of ``C`` earlier tokens; extended in place.

        Returns:
            Hidden states after the last layer (and the final norm, where it is kept). ``(N, T, D)``
        """
        output = self.decoder(
            **{**token_inputs(self._entering(inputs)), cache_argument(self.decoder): cache},
            attention_mask=is_real.long(),
            position_ids=positions,
            use_cache=cache is not None,
        )
        return cast(Tensor, output.last_hidden_state)

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
        root: KVCache | None = None,
    ) -> Tensor:
        """Run the tokens of a packed batch; only where ``capabilities.packs``.

        Args:
            inputs: Token ids ``(T,)`` int64, or hidden states ``(T, D)``.
            batch: Their layout.
            output_places: Places whose states are used, none of them in the first level; the last
                layer then computes only keys and values of all others, whose states mean nothing.
                None for all.
            cache: Keeps the keys and values.
            root: Keys and values of what all texts begin with.

        Returns:
            Hidden states ``(T, D)``.
        """
        return packed_forward(
            self.decoder,
            self._entering(inputs),
            batch,
            # the backward pass would recompute all places
            None if self.recomputes or not self.capabilities.prunes else output_places,
            cache=cache,
            root=root,
        )

    def decode_step(self, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Run one new token of each text in a forked cache; see ``decode_step``."""
        return decode_step(self.decoder, self._entering(inputs), positions, cache)

    def _entering(self, inputs: Tensor) -> Tensor:
        """Bring hidden states of layers in another type to this one's; ids stay."""
        if not inputs.is_floating_point():
            return inputs
        return inputs.to(next(self.decoder.parameters()).dtype)
