"""Memory, steps and arithmetic of a ``fit`` stage: sums over the networks it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rlaif_pl.pipeline.estimate_inputs import LONGEST, Inputs, at, number_at
from rlaif_pl.pipeline.estimate_models import ModelShape
from rlaif_pl.pipeline.yaml_files import Value

GIB = 2**30
CONTEXT_BYTES = 2 * GIB  # CUDA context, libraries' workspaces, NCCL buffers
LOGIT_ROWS = 256  # models/output_head.py computes logits so many rows at a time
REWARD_TOKENS = 128  # of a response, by default of `RewardModel`
LOGIT_COPIES = 3  # logits, their softmax and the gradient


@dataclass(frozen=True, slots=True)
class Role:
    """A network of a stage: its weights with gradients (float32) and without, shared ones once.

    FSDP2 divides it unless it ``stays_whole``, and makes copies of what is ``shared``.
    """

    name: str
    trained: int
    frozen: int
    frozen_bytes: int = 2
    flops: float = 0.0  # a row
    shared: int = 0  # weights of another role
    stays_whole: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU."""

    weights: int  # with autocast's 16-bit copies of trained ones, or what FSDP2 gathers
    gradients: int  # float32, with DDP's flat copies
    optimizer: int
    activations: int  # kept for the backward pass of one batch
    logits: int  # rows of vocabulary logits alive at once
    cache: int  # keys and values while sampling
    whole: int = 0  # weights before FSDP2 divides them: the probes run on each GPU's own

    @property
    def total(self) -> int:
        """Peak: start, sampling and training follow each other."""
        steady = self.weights + self.gradients + self.optimizer
        working = steady + max(self.activations + self.logits, self.cache)
        return max(working, self.whole) + CONTEXT_BYTES


def memory(
    roles: Sequence[Role],
    moments: int = 2,  # float32 values a trained weight: AdamW's; Adafactor keeps next to nothing
    half: bool = True,  # matrices are multiplied in 16 bits by autocast, which keeps copies of weights
    ranks: int = 1,  # GPUs that train together
    sharded: bool = False,  # FSDP2 divides weights, gradients and optimizer state among the ranks
    bucket_views: bool = False,  # DDP's gradient_as_bucket_view: gradients lie in the buckets
    gathered: float = 0,  # bytes that a sharded stage holds whole at a time
    *,
    activations: float = 0,
    scored_tokens: float = 0,  # of a batch, whose log-probabilities are taken
    vocab: int = 0,
    cache: float = 0,
) -> Memory:
    """Add up what one GPU holds."""
    share = ranks if sharded else 1
    apart = sum(role.frozen_bytes * role.frozen for role in roles if role.stays_whole)
    copied = sum(role.frozen_bytes * role.shared for role in roles) if sharded else 0
    copies = ranks > 1 and not (sharded or bucket_views)
    trained = sum(role.trained for role in roles)
    frozen = sum(role.frozen_bytes * role.frozen for role in roles)
    casts = gathered if sharded else 2 * trained if half else 0
    whole = 4 * trained + frozen
    return Memory(
        weights=(whole + copied - apart) // share + apart + round(casts),
        gradients=(8 if copies else 4) * trained // share,
        optimizer=4 * moments * trained // share,
        activations=round(activations),
        logits=round(4 * LOGIT_COPIES * min(LOGIT_ROWS, scored_tokens) * vocab),
        cache=round(cache),
        whole=whole if sharded else 0,
    )


@dataclass(frozen=True, slots=True)
class Network:
    """A backbone as a stage cuts it."""

    shape: ModelShape
    top: int  # layers that are trained, those above the trunk
    rank: int | None = None  # of the adapters; None trains whole layers
    checkpointing: bool = False  # whether layers are recomputed
    shares_prefix: bool = True  # whether a prompt is computed once for all its responses
    width: int = 2  # bytes of a frozen weight

    def role(self, name: str, flops: float = 0.0, writes: bool = True, owns: bool = True) -> Role:
        """A role that trains the network.

        One trained whole that ``writes`` no tokens keeps the output embedding frozen, a copy of its own
        (see ``models.policy.for_role``); frozen weights are counted for the role that ``owns`` them.
        """
        shape = self.shape
        if self.rank is None and self.top == shape.layers:
            whole = (shape.parameters, 0) if writes else (shape.decoder, shape.embedding)
            return Role(name, *whole, self.width, flops)
        if self.rank is None:
            trained = self.top * shape.layer + shape.final_norm
        else:
            trained = self.top * self.rank * shape.matrix_sides
        frozen = shape.parameters - (trained if self.rank is None else 0)
        trunk = (shape.layers - self.top) * shape.layer  # one for all roles
        shared = 0 if owns else frozen - trunk
        return Role(name, trained, frozen if owns else 0, self.width, flops, shared)

    def gathered(self, half: bool) -> float:
        """Bytes that FSDP2 holds whole at a time: embeddings, two layers, gradients of one."""
        outer = self.shape.parameters - self.shape.layers * self.shape.layer
        is_whole = self.rank is None and self.top == self.shape.layers
        return (8 if is_whole else self.width) * outer + 3 * (2 if half else 4) * self.shape.layer

    def tokens(self, prompt: float, responses: float, response: float) -> float:
        """Tokens run for a prompt with responses."""
        return (1 if self.shares_prefix else responses) * prompt + responses * response

    def training_flops(self, tokens: float, length: float, scored: float = 0.0) -> float:
        """Forward and backward; adapters need no gradients of the weights below them."""
        forward = self.shape.forward_flops(tokens, length, scored)
        backward = (2 if self.rank is None else 1) + (1 if self.checkpointing else 0)
        return forward * (1 + backward * self.top / self.shape.layers)


class Fit:
    """A ``fit`` stage in numbers, from its resolved config; ValueError for unknown modules or sizes."""

    def __init__(self, content: Value, inputs: Inputs) -> None:
        self.content, self.inputs, expect = content, inputs, inputs.expect
        self.model = model = at(content, "model.init_args")
        kind = str(at(content, "model.class_path")).rsplit(".", 1)[-1]
        options, self.source, self.drawn = {
            "SFTModule": (model, "demonstrations", 1.0),
            "RewardModule": (at(model, "reward.init_args"), "preferences", 2.0),
            "DPOModule": (model, "preferences", 2.0),
            "A2CModule": (
                at(model, "actor.init_args"),
                "prompts",
                number_at(model, "sampling.n", 4),
            ),
        }.get(kind, (None, "", 0.0))
        if not self.source:
            raise ValueError(f"no estimate for {kind}")
        self.network = read_network(options, inputs)
        self.is_a2c, self.writes = kind == "A2CModule", kind != "RewardModule"
        self.has_reference = kind in ("A2CModule", "DPOModule")
        response = expect.response_tokens
        uncut = LONGEST * response if kind == "SFTModule" else REWARD_TOKENS
        self.longest = number_at(options, "max_response_tokens", uncut)
        if self.is_a2c:
            self.longest = number_at(model, "sampling.max_new_tokens", 64)
            response = min(response, self.longest)
        self.tokens = self.network.tokens(expect.prompt_tokens, self.drawn, response)
        self.length = expect.prompt_tokens + response  # of a text
        self.scored = self.drawn * response if self.writes else 0.0
        self.half = "16" in str(at(content, "trainer.precision"))
        devices, nodes = at(content, "trainer.devices"), number_at(content, "trainer.num_nodes", 1)
        self.ranks = int(devices * nodes) if isinstance(devices, int) else expect.gpus
        self.batch = int(number_at(content, "data.batch_size", 8))
        accumulated = int(number_at(content, "trainer.accumulate_grad_batches", 1))
        self.effective_batch = self.batch * accumulated * self.ranks

    @cached_property
    def rows(self) -> float | None:
        """Rows seen, epochs counted; None where the data set's size is not known."""
        rows = self.inputs.rows(at(self.content, f"data.{self.source}"))
        if rows is not None and at(self.content, "data.validation") is None:
            rows *= 1 - number_at(self.content, "data.validation_fraction", 0.1)
        most = number_at(self.content, "trainer.max_steps", -1) * self.effective_batch
        epochs = number_at(self.content, "trainer.max_epochs", -1)
        seen = None if rows is None or epochs <= 0 else rows * epochs
        return seen if most <= 0 else min(seen or most, most)

    @cached_property
    def roles(self) -> list[Role]:
        """Networks: the trained one, a reference, and with A2C value network and reward model."""
        network, shape, prompt = self.network, self.network.shape, self.inputs.expect.prompt_tokens
        flops = network.training_flops(self.tokens, self.length, self.scored)
        if not self.has_reference:
            return [network.role("policy" if self.writes else "reward", flops, self.writes)]
        # The reference of a policy that is trained whole is float32 like it.
        width = 4 if network.rank is None else network.width
        read = shape.forward_flops(self.tokens, self.length, self.scored)
        if self.is_a2c:
            read += shape.forward_flops(prompt, prompt)  # prefill
        roles = [Role("reference", 0, shape.parameters, width, read)]
        roles.append(network.role("policy", flops, owns=False))
        if not self.is_a2c:
            return roles
        value = at(self.model, "actor.init_args.value_network")
        value = value or ("separate" if network.rank is None else "adapter")
        if value in ("separate", "adapter"):  # else a head on states that are there anyway
            critic = network if value == "adapter" else replace(network, rank=None)
            flops = critic.training_flops(self.tokens, self.length)
            roles.append(critic.role("value", flops, writes=False, owns=False))
        options = at(self.model, "reward.init_args")
        if at(options, "backbone") is not None:
            judge = read_network(options, self.inputs)
            is_shared = network.top < shape.layers and judge.top == network.top
            is_shared &= not self.is_sharded
            own = judge.top * judge.shape.layer if is_shared else judge.shape.parameters
            read = judge.shape.forward_flops(self.tokens, self.length)
            roles.append(Role("reward", 0, own, judge.width, read, stays_whole=True))
        return roles

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP2 divides the weights."""
        strategy = str(at(self.content, "trainer.strategy"))
        return any(word in strategy for word in ("fsdp", "ModelParallelStrategy"))

    @property
    def flops(self) -> float:
        """Operations of training and scoring."""
        return (self.rows or 0.0) * sum(role.flops for role in self.roles)

    @property
    def decode_flops(self) -> float:
        """Operations of sampling."""
        row = self.network.shape.forward_flops(self.scored, self.length, self.scored)
        return (self.rows or 0.0) * row if self.is_a2c else 0.0

    def activations(self, checkpointing: bool) -> float:
        """Bytes kept for the backward pass, of the rows of a batch that are trained on at a time."""
        networks = sum(role.trained > 0 for role in self.roles)
        tokens = self.network.tokens(self.inputs.expect.longest, self.drawn, self.longest)
        layers = self.network.shape.activation_bytes(self.network.top, checkpointing, self.half)
        return networks * self._held_rows * tokens * layers

    @property
    def memory(self) -> Memory:
        """What one GPU holds."""
        optimizer = str(at(self.model, "optimizer.class_path")).lower()
        shape, sequence = self.network.shape, self._row_tokens
        return memory(
            self.roles,
            0 if "sgd" in optimizer or "adafactor" in optimizer else 2,
            self.half,
            self.ranks,
            self.is_sharded,
            bool(at(self.content, "trainer.strategy.init_args.gradient_as_bucket_view")),
            self.network.gathered(self.half),
            activations=self.activations(self.network.checkpointing),
            scored_tokens=self._held_rows * self.drawn * self.longest if self.writes else 0,
            vocab=shape.vocab,
            cache=self.is_a2c * self.batch * sequence * shape.cache_bytes(2 if self.half else 4),
        )

    @property
    def _row_tokens(self) -> float:
        return self.inputs.expect.longest + self.drawn * self.longest

    @property
    def _held_rows(self) -> float:
        most = number_at(self.model, "micro_batch_tokens", 0)
        return min(self.batch, max(1.0, most // self._row_tokens)) if most else self.batch


def read_network(options: Value, inputs: Inputs) -> Network:
    """Read a backbone's options; ValueError where its size is not known."""
    name = at(options, "backbone.name") or "smollm2-135m"
    shape = inputs.shape(str(name))
    if shape is None:
        raise ValueError(f"size of {name} not known: give expect.num_params: {{{name}: 1.5e9}}")
    layers = number_at(options, "backbone.num_layers", shape.layers)
    rank = at(options, "lora.r")
    recompute = bool(at(options, "backbone.gradient_checkpointing"))
    return Network(
        shape,
        top=int(layers - number_at(options, "backbone.trunk_layers", 0)),
        rank=rank if isinstance(rank, int) else None,
        checkpointing=recompute,
        shares_prefix=not recompute,
        width=4 if at(options, "backbone.dtype") in (None, "float32") else 2,
    )
