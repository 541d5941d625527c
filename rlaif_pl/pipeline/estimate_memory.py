"""GPU memory of a training stage: weights, gradients, optimizer state, activations, by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlaif_pl.pipeline.estimate_models import ModelShape

GIB = 2**30
CARDS_GIB = (24, 40, 80)
USABLE = 0.9  # of a card; the rest goes to fragments of the allocator
CONTEXT_BYTES = 2 * GIB  # CUDA context, libraries' workspaces, NCCL buffers
LOGIT_ROWS = 256  # models/causal.py computes logits so many rows at a time
LOGIT_COPIES = 3  # logits, their softmax and the gradient
Optimizer = Literal["adamw", "adafactor", "sgd"]


@dataclass(frozen=True, slots=True)
class Role:
    """A network of a stage.

    Attributes:
        name: ``policy``, ``reference``, ``value``, ``reward``.
        trained: Weights with gradients; they are float32.
        frozen: Weights without, those shared with another role not counted again.
        frozen_bytes: Bytes of a frozen weight.
        factored: Rows plus columns of the trained matrices, and the trained vectors' sizes: what
            Adafactor keeps.
    """

    name: str
    trained: int
    frozen: int
    frozen_bytes: int = 2
    factored: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: Of all roles.
        gradients: Float32, of trained weights.
        buckets: DDP's flat copies of the gradients.
        optimizer: State of the optimizer.
        casts: 16-bit copies of trained weights that autocast keeps during a pass; with FSDP2 what is
            gathered of the others' weights at a time.
        activations: Kept for the backward pass of one batch.
        logits: Rows of vocabulary logits alive at once.
        logits_avoided: What all scored tokens' float32 logits at once would take.
        cache: Keys and values while sampling; with FSDP2 by how much the whole weights, which are on
            each GPU at the start, exceed what is held all the time.
    """

    weights: int
    gradients: int
    buckets: int
    optimizer: int
    casts: int
    activations: int
    logits: int
    logits_avoided: int
    cache: int

    @property
    def steady(self) -> int:
        """What is held all the time."""
        return self.weights + self.gradients + self.buckets + self.optimizer + self.casts

    @property
    def total(self) -> int:
        """Peak: sampling and training follow each other, so the larger of cache and activations."""
        return self.steady + max(self.activations + self.logits, self.cache) + CONTEXT_BYTES

    def fits(self, card_gib: int) -> bool:
        """Whether it fits a card of so many GiB."""
        return self.total <= USABLE * card_gib * GIB


def whole_model(name: str, shape: ModelShape, *, writes: bool = True, width: int = 2) -> Role:
    """A role that trains every weight it uses.

    Args:
        name: Of the role.
        shape: Its model.
        writes: Whether it gives tokens a probability; one that does not keeps the output embedding
            frozen, a copy of its own (see ``models.policy.for_role``).
        width: Bytes of a frozen weight.
    """
    frozen = 0 if writes else shape.embedding.size
    count = shape.parameters if writes else shape.decoder_parameters
    embeddings = [shape.embedding] * (1 if shape.tied or not writes else 2)
    matrices = [*embeddings, *shape.layer_matrices * shape.layers]
    vectors = shape.layers * shape.layer_vectors + shape.final_norm
    factored = vectors + sum(m.rows + m.columns for m in matrices)
    return Role(name, count, frozen, width, factored)


def partly_trained(
    name: str, shape: ModelShape, layers: int, rank: int | None, *, owns: bool, width: int = 2
) -> Role:
    """A role that trains the last layers, or adapters on them, over frozen weights.

    Args:
        name: Of the role.
        shape: Its model.
        layers: Layers above the frozen trunk.
        rank: Of the adapters; None trains the layers whole.
        owns: Whether the frozen weights are counted here: the first role of those that share them.
        width: Bytes of a frozen weight.
    """
    if rank is None:
        trained = layers * shape.layer_parameters + shape.final_norm
        factored = layers * (
            shape.layer_vectors + sum(m.rows + m.columns for m in shape.layer_matrices)
        )
        kept = shape.parameters - trained
    else:
        trained = shape.lora_parameters(rank, layers)
        factored = trained  # Adafactor keeps little less of matrices as thin as these
        kept = shape.parameters
    return Role(name, trained, kept if owns else 0, width, factored)


def frozen_model(name: str, shape: ModelShape, width: int = 2) -> Role:
    """A role that trains nothing and shares nothing."""
    return Role(name, 0, shape.parameters, width)


def optimizer_bytes(role: Role, optimizer: Optimizer) -> int:
    """State of the optimizer: two float32 moments, one factored moment, or nothing."""
    if optimizer == "adamw":
        return 8 * role.trained
    return 4 * role.factored if optimizer == "adafactor" else 0


def memory(
    roles: Sequence[Role],
    optimizer: Optimizer,
    *,
    activations: int,
    scored_tokens: int,
    vocab: int,
    cache: int = 0,
    half: bool = True,
    ranks: int = 1,
    sharded: bool = False,
    gathered: int = 0,
    bucket_views: bool = False,
) -> Memory:
    """Add up what one GPU holds.

    Args:
        roles: Networks of the stage.
        optimizer: Which one.
        activations: Bytes kept for the backward pass of one batch.
        scored_tokens: Tokens of a batch whose log-probabilities are taken.
        vocab: Rows of the output embedding; 0 where no token is scored.
        cache: Bytes of keys and values while sampling.
        half: Whether matrices are multiplied in 16 bits by autocast.
        ranks: GPUs that train together.
        sharded: FSDP2: weights, gradients and optimizer state are divided among the ranks.
        gathered: Bytes that FSDP2 holds whole at a time.
        bucket_views: DDP's ``gradient_as_bucket_view``: gradients lie in the buckets themselves.
    """
    share = ranks if sharded else 1
    trained = sum(role.trained for role in roles)
    weights = sum(4 * role.trained + role.frozen_bytes * role.frozen for role in roles)
    rows = min(LOGIT_ROWS, scored_tokens)
    held = Memory(
        weights=weights // share,
        gradients=4 * trained // share,
        buckets=4 * trained if ranks > 1 and not (sharded or bucket_views) else 0,
        optimizer=sum(optimizer_bytes(role, optimizer) for role in roles) // share,
        casts=gathered if sharded else 2 * trained if half else 0,
        activations=activations,
        logits=4 * LOGIT_COPIES * rows * vocab,
        logits_avoided=4 * scored_tokens * vocab,
        cache=cache,
    )
    return replace(held, cache=max(cache, weights - held.steady)) if sharded else held
