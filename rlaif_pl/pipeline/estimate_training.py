"""Memory, steps and arithmetic of a ``fit`` stage: sums over the networks it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.pipeline.estimate_inputs import LONGEST, Inputs, ModelShape
from rlaif_pl.pipeline.yaml_files import Value, at, number_at

GIB = 2**30
CONTEXT_BYTES = 2 * GIB  # CUDA context, libraries' workspaces, NCCL buffers
# Rows of logits at a time, about what `ops.linear_logprob` takes of a GPU; they, softmax and gradient.
LOGIT_ROWS, LOGIT_COPIES = 256, 3
REWARD_TOKENS = 128  # of a response, by default of `RewardModel`
# Of a module: where the options of what it trains are, its data, and responses a row by default.
MODULES = {
    "SFTModule": ("model.init_args", "data.demonstrations", 1.0),
    "RewardModule": ("model.init_args.reward.init_args", "data.preferences", 2.0),
    "DPOModule": ("model.init_args", "data.preferences", 2.0),
    "A2CModule": ("model.init_args.actor.init_args", "data.prompts", 4.0),
}


@dataclass(frozen=True, slots=True)
class Role:
    """A network of a stage; weights that several share count once."""

    name: str
    trained: int  # weights with gradients, in float32
    frozen: int
    frozen_bytes: int = 2
    flops: float = 0.0  # a row
    shared: int = 0  # weights of another role, of which FSDP2 makes copies
    stays_whole: bool = False  # FSDP2 does not divide it


class Memory:
    """Bytes on one GPU; ``total`` is the peak: start, sampling and training follow each other."""

    def __init__(
        self,
        roles: Sequence[Role],
        moments: int = 2,  # float32 values a trained weight: AdamW's; Adafactor keeps next to nothing
        half: bool = True,  # autocast multiplies in 16 bits and keeps copies of trained weights
        ranks: int = 1,  # GPUs that train together
        sharded: bool = False,  # FSDP2 divides weights, gradients and optimizer state among the ranks
        bucket_views: bool = False,  # DDP's gradient_as_bucket_view: gradients lie in the buckets
        gathered: float = 0,  # bytes that a sharded stage holds whole at a time
        activations: float = 0,  # bytes kept for the backward pass of one batch
        scored_tokens: float = 0,  # of a batch, whose log-probabilities are taken
        vocab: int = 0,
        cache: float = 0,  # bytes of keys and values while sampling
    ) -> None:
        share = ranks if sharded else 1
        apart = sum(role.frozen_bytes * role.frozen for role in roles if role.stays_whole)
        copied = sum(role.frozen_bytes * role.shared for role in roles) if sharded else 0
        copies = ranks > 1 and not (sharded or bucket_views)  # DDP's, flat
        trained = sum(role.trained for role in roles)
        casts = gathered if sharded else 2 * trained if half else 0
        whole = 4 * trained + sum(role.frozen_bytes * role.frozen for role in roles)
        self.weights = (whole + copied - apart) // share + apart + round(casts)
        self.gradients = (8 if copies else 4) * trained // share
        self.optimizer = 4 * moments * trained // share
        self.logits = round(4 * LOGIT_COPIES * min(LOGIT_ROWS, scored_tokens) * vocab)
        working = max(round(activations) + self.logits, round(cache))
        peak = self.weights + self.gradients + self.optimizer + working
        # at the start the probes run on each GPU's own weights, before FSDP2 divides them
        self.total = max(peak, whole if sharded else 0) + CONTEXT_BYTES


@dataclass(frozen=True, slots=True)
class Network:
    """A backbone as a stage cuts it."""

    shape: ModelShape
    top: int  # layers that are trained, those above the trunk
    rank: int | None = None  # of the adapters; None trains whole layers
    # whether layers are recomputed; else a prompt is computed once for all its responses
    checkpointing: bool = False
    width: int = 2  # bytes of a frozen weight

    @classmethod
    def read(cls, options: Value, inputs: Inputs) -> Network:
        """Read a backbone's options; ValueError where its size is not known."""
        name = str(at(options, "backbone.name") or "smollm2-135m")
        shape = inputs.shape(name)
        if shape is None:
            raise ValueError(f"size of {name} not known: give expect.num_params: {{{name}: 1.5e9}}")
        layers = number_at(options, "backbone.num_layers", shape.layers)
        top = int(layers - number_at(options, "backbone.trunk_layers", 0))
        rank = at(options, "lora.r")
        recompute = bool(at(options, "backbone.gradient_checkpointing"))
        width = 4 if at(options, "backbone.dtype") in (None, "float32") else 2
        return cls(shape, top, rank if isinstance(rank, int) else None, recompute, width)

    def role(self, name: str, flops: float = 0.0, writes: bool = True, owns: bool = True) -> Role:
        """A role that trains the network; frozen weights count for the role that ``owns`` them."""
        shape = self.shape
        if self.rank is None and self.top == shape.layers:
            # one that writes no tokens has a frozen output embedding of its own (`policy.for_role`)
            trained, frozen = (shape.parameters, 0) if writes else (shape.decoder, shape.embedding)
            return Role(name, trained, frozen, self.width, flops)
        frozen, trained = shape.parameters, self.top * (self.rank or 0) * shape.matrix_sides
        if self.rank is None:
            trained = self.top * shape.layer + shape.final_norm
            frozen -= trained
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
        return (responses if self.checkpointing else 1) * prompt + responses * response

    def training_flops(self, tokens: float, length: float, scored: float = 0.0) -> float:
        """Forward and backward; adapters need no gradients of the weights below them."""
        forward = self.shape.forward_flops(tokens, length, scored)
        backward = (2 if self.rank is None else 1) + (1 if self.checkpointing else 0)
        return forward * (1 + backward * self.top / self.shape.layers)


def rewards_at(model: Value) -> list[Value]:
    """Arguments of each reward of A2C: of the one, of those in a list, or in ``WeightedRewards``."""
    reward = at(model, "reward")
    several = reward if isinstance(reward, list) else at(reward, "init_args.rewards")
    return [at(each, "init_args") for each in (several if isinstance(several, list) else [reward])]


class Fit:
    """A ``fit`` stage in numbers, from its resolved config; ValueError for unknown modules or sizes.

    ``rows`` are those of all epochs (None: not known), with ``drawn`` responses each; ``flops`` are of
    training and scoring, ``decode_flops`` of sampling.
    """

    def __init__(self, content: Value, inputs: Inputs) -> None:
        self.inputs, self.expect = inputs, inputs.expect
        self.model = at(content, "model.init_args")
        self.kind = str(at(content, "model.class_path")).rsplit(".", 1)[-1]
        if self.kind not in MODULES:
            raise ValueError(f"no estimate for {self.kind}")
        place, source, drawn = MODULES[self.kind]
        self.is_a2c, self.writes = self.kind == "A2CModule", self.kind != "RewardModule"
        self.network = Network.read(at(content, place), inputs)
        self.drawn = number_at(self.model, "sampling.n", drawn)
        response = self.expect.response_tokens
        uncut = REWARD_TOKENS if self.kind == "RewardModule" else LONGEST * response
        self.longest = number_at(content, f"{place}.max_response_tokens", uncut)
        if self.is_a2c:
            self.longest = number_at(self.model, "sampling.max_new_tokens", 64)
            response = min(response, self.longest)
        self.tokens = self.network.tokens(self.expect.prompt_tokens, self.drawn, response)
        self.length = self.expect.prompt_tokens + response  # of a text
        self.scored = self.drawn * response if self.writes else 0.0
        self._read_trainer(content)
        rows = inputs.rows(at(content, source))
        if rows is not None and at(content, "data.validation") is None:
            rows *= 1 - number_at(content, "data.validation_fraction", 0.1)
        most = number_at(content, "trainer.max_steps", -1) * self.effective_batch
        epochs = number_at(content, "trainer.max_epochs", -1)
        seen = None if rows is None or epochs <= 0 else rows * epochs
        self.rows = seen if most <= 0 else min(seen or most, most)
        self.roles = self._roles()
        self.flops = (self.rows or 0.0) * sum(role.flops for role in self.roles)
        row = self.network.shape.forward_flops(self.scored, self.length, self.scored)
        self.decode_flops = (self.rows or 0.0) * row if self.is_a2c else 0.0

    def _read_trainer(self, content: Value) -> None:
        self.half = "16" in str(at(content, "trainer.precision"))
        devices, nodes = at(content, "trainer.devices"), number_at(content, "trainer.num_nodes", 1)
        self.ranks = int(devices * nodes) if isinstance(devices, int) else self.expect.gpus
        self.strategy = at(content, "trainer.strategy")
        sharded = ("fsdp", "ModelParallelStrategy")
        self.is_sharded = any(name in str(self.strategy) for name in sharded)
        self.batch = int(number_at(content, "data.batch_size", 8))
        accumulated = int(number_at(content, "trainer.accumulate_grad_batches", 1))
        self.effective_batch = self.batch * accumulated * self.ranks
        self.row_tokens = self.expect.longest + self.drawn * self.longest
        most = number_at(self.model, "micro_batch_tokens", 0)
        self.held_rows = min(self.batch, max(1.0, most // self.row_tokens)) if most else self.batch

    def _roles(self) -> list[Role]:
        network, shape, prompt = self.network, self.network.shape, self.expect.prompt_tokens
        flops = network.training_flops(self.tokens, self.length, self.scored)
        if self.kind in ("SFTModule", "RewardModule"):
            return [network.role("policy" if self.writes else "reward", flops, self.writes)]
        # The reference of a policy that is trained whole is float32 like it.
        width = 4 if network.rank is None else network.width
        read = shape.forward_flops(self.tokens, self.length, self.scored)
        if self.is_a2c:
            read += shape.forward_flops(prompt, prompt)  # prefill
        reference = Role("reference", 0, shape.parameters, width, read)
        roles = [reference, network.role("policy", flops, owns=False)]
        if not self.is_a2c:
            return roles
        value = at(self.model, "actor.init_args.value_network")
        value = value or ("separate" if network.rank is None else "adapter")
        if value in ("separate", "adapter"):  # else a head on states that are there anyway
            critic = network if value == "adapter" else replace(network, rank=None)
            flops = critic.training_flops(self.tokens, self.length)
            roles.append(critic.role("value", flops, writes=False, owns=False))
        for options in rewards_at(self.model):
            if at(options, "backbone") is None:
                continue
            judge, is_cut = Network.read(options, self.inputs), network.top < shape.layers
            is_shared = is_cut and judge.top == network.top and not self.is_sharded
            own = judge.top * judge.shape.layer if is_shared else judge.shape.parameters
            read = judge.shape.forward_flops(self.tokens, self.length)
            roles.append(Role("reward", 0, own, judge.width, read, stays_whole=True))
        return roles

    def activations(self, checkpointing: bool) -> float:
        """Bytes kept for the backward pass, of the rows of a batch that are trained on at a time."""
        networks = sum(role.trained > 0 for role in self.roles)
        tokens = self.network.tokens(self.expect.longest, self.drawn, self.longest)
        layers = self.network.shape.activation_bytes(self.network.top, checkpointing, self.half)
        return networks * self.held_rows * tokens * layers

    def memory(self) -> Memory:
        """What one GPU holds."""
        shape, optimizer = self.network.shape, str(at(self.model, "optimizer.class_path")).lower()
        moments = 0 if "sgd" in optimizer or "adafactor" in optimizer else 2
        kept = self.activations(self.network.checkpointing)
        scored = self.held_rows * self.drawn * self.longest if self.writes else 0
        sampled = self.is_a2c * self.batch * self.row_tokens
        cache = sampled * shape.cache_bytes(2 if self.half else 4)
        views = bool(at(self.strategy, "init_args.gradient_as_bucket_view"))
        place = self.half, self.ranks, self.is_sharded, views, self.network.gathered(self.half)
        return Memory(self.roles, moments, *place, kept, scored, shape.vocab, cache)
