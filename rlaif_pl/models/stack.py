"""A run of decoder layers, so that a frozen trunk can be computed once for several roles.

``split`` cuts the decoder of a transformers causal LM after its first k layers. The lower part (the
trunk: embeddings and k layers) is frozen and may be shared; the upper part (the top: the other layers
and the final norm) is what a role trains. Both stay ordinary transformers models, so attention, rotary
positions and caches are the library's own. Architectures that do more between embedding and first
layer than add or look up (Gemma scales, GPT-2 adds positions) are caught by a self-test, not guessed.
"""

from __future__ import annotations

import copy
import inspect
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from rlaif_pl.models.packed_run import run_packed, run_written
from rlaif_pl.models.pair_fitness import Fitness, can_write, prepare
from rlaif_pl.models.pair_layout import PackedRow
from rlaif_pl.models.shared_cache import SharedCache

SELF_TEST_TOLERANCE = 1e-3  # float32 sums in another order; a wrong architecture is off by far more


class Stack(nn.Module):
    """Consecutive layers of one decoder behind one call.

    Args:
        decoder: A transformers decoder without a language-model head (``LlamaModel`` and the like).
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        # transformers 5.24 renames the argument and warns of the older name
        known = inspect.signature(decoder.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"
        self._fitness: Fitness | None = None  # unknown until asked for the first time
        self._writes: dict[str, bool] = {}  # by type of device
        self._followed: list[Stack] = []  # in a list, so that it is no part of this module

    @property
    def num_layers(self) -> int:
        """Layers in this stack."""
        return int(self.decoder.config.num_hidden_layers)

    def forward(
        self,
        inputs: Tensor,
        is_real: Tensor,
        positions: Tensor,
        cache: DynamicCache | SharedCache | None = None,
    ) -> Tensor:
        """Run the layers.

        Args:
            inputs: Token ids ``(N, T)`` int64, or hidden states ``(N, T, D)``.
            is_real: True where a key may be attended to, for cached and new tokens. ``(N, C + T)``
            positions: Position of each new token in its own text. ``(N, T)`` int64
            cache: Keys and values of ``C`` earlier tokens; extended in place. One that is shared
                knows itself what is real, and takes one token a text.

        Returns:
            Hidden states after the last layer (and the final norm, in a top). ``(N, T, D)``
        """
        if isinstance(cache, SharedCache):
            return run_written(self.decoder, self._entering(inputs), positions, cache)
        inputs = self._entering(inputs)
        which = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        output = self.decoder(
            **{which: inputs, self._cache_name: cache},
            attention_mask=is_real.long(),
            position_ids=positions,
            use_cache=cache is not None,
        )
        return cast(Tensor, output.last_hidden_state)

    @property
    def packs(self) -> bool:
        """Whether texts can be run without padding; found out by a test on the first call."""
        return self._fit.packs

    @property
    def writes(self) -> bool:
        """Whether texts can be written over one copy of their prompt's keys; tested likewise."""
        device = next(self.decoder.parameters()).device.type
        if device not in self._writes:
            self._writes[device] = self.packs and can_write(self.decoder)
        return self._writes[device]

    @property
    def _fit(self) -> Fitness:
        if self._fitness is None:
            self._fitness = prepare(self.decoder)
        return self._fitness

    @property
    def recomputes(self) -> bool:
        """Whether layers recompute their activations in the backward pass: they keep no cache."""
        return any(
            module.training and getattr(module, "gradient_checkpointing", False)
            for stack in (self, *self._followed)
            for module in stack.decoder.modules()
        )

    def follow(self, other: Stack) -> None:
        """Run batches the way that another stack is run, so that equal weights round alike."""
        self._followed = [other]

    def packed(
        self,
        inputs: Tensor,
        row: PackedRow,
        needed: Tensor | None = None,
        cache: SharedCache | None = None,
    ) -> Tensor:
        """Run the layers on a whole batch in one row; only where ``packs``.

        Args:
            inputs: Token ids ``(T,)`` int64, or hidden states ``(T, D)``.
            row: Which tokens are whose.
            needed: Places in the row whose states are used, none of them a prefix's, to save work on
                the others; None for all.
            cache: Keeps the keys and values.

        Returns:
            Hidden states as of ``forward``; those not needed mean nothing. ``(T, D)``
        """
        if not self._fit.narrows or self.recomputes:  # the backward pass would recompute all places
            needed = None
        return run_packed(self.decoder, self._entering(inputs), row, needed, cache)

    def _entering(self, inputs: Tensor) -> Tensor:
        """Bring hidden states of a stack in another type to this one's; ids stay."""
        dtype = next(self.decoder.parameters()).dtype
        return (
            inputs.to(dtype) if inputs.is_floating_point() and dtype.is_floating_point else inputs
        )

    def new_cache(self) -> DynamicCache:
        """Return an empty key/value cache for this stack."""
        return DynamicCache(config=self.decoder.config)


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the decoder inside a causal LM (or the model itself when it is one already)."""
    prefix = model.base_model_prefix
    return cast(PreTrainedModel, getattr(model, prefix)) if hasattr(model, prefix) else model


def layers_of(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return the list of layers of a decoder.

    Raises:
        ValueError: The architecture keeps its layers under another name than ``layers`` or ``h``.
    """
    for name in ("layers", "h"):
        found = getattr(decoder, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ValueError(
        f"expected a decoder with a ModuleList named 'layers' or 'h', got {type(decoder).__name__}; "
        "use trunk_layers=0 and num_layers=None for this architecture"
    )


def keep_layers(decoder: PreTrainedModel, start: int, stop: int) -> PreTrainedModel:
    """Return a decoder that runs layers ``start`` (inclusive) to ``stop`` (exclusive) only.

    Weights are shared with ``decoder``, whose own layers must not be run afterwards: each kept
    layer is told its new index in the cache.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    layers = layers_of(decoder)
    kept = nn.ModuleList(list(layers)[start:stop])
    setattr(part, "layers" if hasattr(decoder, "layers") else "h", kept)
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    part.config = copy.deepcopy(decoder.config)
    part.config.num_hidden_layers = len(kept)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    return part


def split(decoder: PreTrainedModel, trunk_layers: int) -> tuple[Stack | None, Stack]:
    """Cut a decoder into a frozen trunk and a top.

    Args:
        decoder: Decoder without head; consumed (its layers are re-indexed).
        trunk_layers: Layers in the trunk; 0 gives no trunk and the whole decoder as top.

    Returns:
        ``(trunk, top)``. The trunk takes token ids and gives raw hidden states; the top takes those
        (or token ids when there is no trunk) and ends with the final norm.

    Raises:
        ValueError: ``trunk_layers`` is out of range, or running the two parts one after the other
            does not give what the whole decoder gives.
    """
    if trunk_layers == 0:
        return None, Stack(decoder)
    total = len(layers_of(decoder))
    if not 0 <= trunk_layers < total:
        raise ValueError(
            f"trunk_layers must be in [0, {total - 1}] for this model, got {trunk_layers}"
        )
    probe = torch.arange(2, 18, device=next(decoder.parameters()).device).view(2, 8)
    is_real = torch.ones_like(probe, dtype=torch.bool)
    positions = torch.arange(8, device=probe.device).expand(2, 8)
    decoder.eval()
    with torch.no_grad():
        whole = Stack(decoder)(probe, is_real, positions)
    lower = keep_layers(decoder, 0, trunk_layers)
    upper = keep_layers(decoder, trunk_layers, total)
    setattr(lower, final_norm_name(decoder), nn.Identity())
    trunk, top = Stack(lower), Stack(upper)
    trunk.requires_grad_(False)
    with torch.no_grad():
        parts = top(trunk(probe, is_real, positions), is_real, positions)
    gap = (whole - parts).abs().max().item() / whole.abs().max().item()
    if not gap < SELF_TEST_TOLERANCE:
        raise ValueError(
            f"expected the trunk and the top of {type(decoder).__name__} to reproduce the whole model, "
            f"got a relative gap of {gap:.1e}; this architecture cannot be cut: use trunk_layers=0"
        )
    drop_embedding(upper)
    return trunk, top


def final_norm_name(decoder: PreTrainedModel) -> str:
    """Return the name of the norm after the last layer.

    Raises:
        ValueError: It has none of the known names.
    """
    for name in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(decoder, name):
            return name
    raise ValueError(
        f"expected {type(decoder).__name__} to name its last norm norm, ln_f or final_layer_norm; "
        "use trunk_layers=0 for this architecture"
    )


def drop_embedding(decoder: PreTrainedModel) -> None:
    """Remove the token embedding of a decoder that is only ever given hidden states."""
    for name in ("embed_tokens", "wte"):
        if hasattr(decoder, name):
            setattr(decoder, name, None)
