"""Memory, steps and arithmetic of a ``fit`` stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from rlaif_pl.pipeline.estimate_expect import Expect, at, model_shape, rows_of
from rlaif_pl.pipeline.estimate_memory import (
    Memory,
    Optimizer,
    Role,
    frozen_model,
    memory,
    partly_trained,
    whole_model,
)
from rlaif_pl.pipeline.estimate_models import ModelShape
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training stage takes.

    Attributes:
        roles: Its networks.
        memory: On one GPU.
        without_checkpointing: Activation bytes if no layer were recomputed.
        with_checkpointing: Activation bytes if every trained layer were.
        rows: Rows seen, epochs counted; None where the data set's size is not known.
        steps: Optimizer steps.
        effective_batch: Rows an optimizer step, all GPUs.
        flops: Of training and scoring.
        decode_flops: Of sampling.
    """

    roles: tuple[Role, ...]
    memory: Memory
    without_checkpointing: int
    with_checkpointing: int
    rows: float | None
    steps: float | None
    effective_batch: int
    flops: float
    decode_flops: float


@dataclass(frozen=True, slots=True)
class Network:
    """A backbone as a stage cuts it.

    Attributes:
        shape: Its sizes.
        top: Layers that are trained, those above the trunk.
        rank: Of the adapters; None trains whole layers.
        checkpointing: Whether layers are recomputed.
        shares_prefix: Whether a prompt is computed once for all its responses.
        width: Bytes of a frozen weight.
    """

    shape: ModelShape
    top: int
    rank: int | None
    checkpointing: bool
    shares_prefix: bool
    width: int

    @property
    def is_whole(self) -> bool:
        """Whether every weight is trained."""
        return self.rank is None and self.top == self.shape.layers

    def role(self, name: str, *, writes: bool, owns: bool) -> Role:
        """The trained copy of a role."""
        if self.is_whole:
            return whole_model(name, self.shape, writes=writes, width=self.width)
        return partly_trained(name, self.shape, self.top, self.rank, owns=owns, width=self.width)

    def tokens(self, prompts: float, prompt: float, responses: float, response: float) -> float:
        """Tokens run for ``prompts`` with ``responses`` each."""
        if self.shares_prefix:
            return prompts * (prompt + responses * response)
        return prompts * responses * (prompt + response)

    def activations(self, tokens: float, half: bool, checkpointing: bool | None = None) -> int:
        """Bytes kept for the backward pass."""
        recompute = self.checkpointing if checkpointing is None else checkpointing
        return round(tokens * self.shape.activation_bytes(self.top, recompute, half))

    def gathered(self, half: bool) -> int:
        """Bytes that FSDP2 holds whole at a time: embeddings, two layers, gradients of one."""
        layer = self.shape.layer_parameters
        outer = self.shape.parameters - self.shape.layers * layer
        return (8 if self.is_whole else self.width) * outer + 3 * (2 if half else 4) * layer

    def training_flops(self, tokens: float, length: float, scored: float) -> float:
        """Forward and backward; adapters need no gradients of the weights below them."""
        forward = self.shape.forward_flops(tokens, length, scored)
        backward = (2 if self.rank is None else 1) + (1 if self.checkpointing else 0)
        return forward * (1 + backward * self.top / self.shape.layers)


def estimate_fit(content: Mapping[str, Value], experiment: Experiment, expect: Expect) -> Fit | str:
    """Estimate a ``fit`` stage from its resolved config; a sentence where it cannot be done."""
    kind = str(at(dict(content), "model.class_path")).rsplit(".", 1)[-1]
    places = {
        "SFTModule": ("model.init_args", "demonstrations"),
        "RewardModule": ("model.init_args.reward.init_args", "preferences"),
        "A2CModule": ("model.init_args.actor.init_args", "prompts"),
    }
    if kind not in places:
        return f"no estimate for {kind}"
    place, source = places[kind]
    options = at(dict(content), place)
    network = read_network(options, experiment, expect)
    if isinstance(network, str):
        return network
    run = _Run(dict(content), experiment, expect, source)
    if kind == "SFTModule":
        return _sft(run, network)
    if kind == "RewardModule":
        return _reward(run, network)
    return _a2c(run, network)


def read_network(options: Value, experiment: Experiment, expect: Expect) -> Network | str:
    """Read a backbone's options; a sentence where its size is not known."""
    name = at(options, "backbone.name") or "smollm2-135m"
    shape = model_shape(str(name), experiment, expect)
    if shape is None:
        return f"size of {name} not known: give expect.num_params: {{{name}: 1.5e9}}"
    kept = at(options, "backbone.num_layers")
    layers = kept if isinstance(kept, int) else shape.layers
    trunk = at(options, "backbone.trunk_layers")
    rank = at(options, "lora.r") if at(options, "lora") else None
    recompute = bool(at(options, "backbone.gradient_checkpointing"))
    shares = at(options, "backbone.share_prefix") is not False and not recompute
    width = 4 if at(options, "backbone.dtype") in (None, "float32") else 2
    top = layers - (trunk if isinstance(trunk, int) else 0)
    return Network(shape, top, rank if isinstance(rank, int) else None, recompute, shares, width)


class _Run:
    """Trainer and data of a stage, as numbers."""

    def __init__(
        self, content: dict[str, Value], experiment: Experiment, expect: Expect, source: str
    ) -> None:
        self.content = content
        self.experiment, self.expect = experiment, expect
        devices = at(content, "trainer.devices")
        nodes = self.number("trainer.num_nodes", 1)
        self.ranks = int(devices * nodes) if isinstance(devices, int) else expect.gpus
        self.half = "16" in str(at(content, "trainer.precision"))
        self.sharded = "ModelParallelStrategy" in str(at(content, "trainer.strategy"))
        self.batch = int(self.number("data.batch_size", 8))
        accumulated = int(self.number("trainer.accumulate_grad_batches", 1))
        self.effective = self.batch * accumulated * self.ranks
        self.bucket_views = bool(at(content, "trainer.strategy.init_args.gradient_as_bucket_view"))
        name = str(at(content, "model.init_args.optimizer.class_path") or "AdamW").lower()
        found = [each for each in ("adafactor", "sgd") if each in name]
        self.optimizer = cast(Optimizer, found[0] if found else "adamw")
        rows = rows_of(at(content, f"data.{source}"), experiment, expect)
        if rows is not None and at(content, "data.validation") is None:
            rows *= 1 - self.number("data.validation_fraction", 0.1)
        steps = self.number("trainer.max_steps", -1)
        epochs = self.number("trainer.max_epochs", -1)
        self.rows = None if rows is None or epochs <= 0 else rows * epochs
        if steps > 0:
            self.rows = min(self.rows or steps * self.effective, steps * self.effective)

    def number(self, key: str, default: float) -> float:
        """A number of the config."""
        value = at(self.content, key)
        return float(value) if isinstance(value, int | float) else default

    def held(self, tokens: float) -> float:
        """Rows of a batch that are trained on at a time.

        Args:
            tokens: Of the longest row, a prompt with all its responses.
        """
        most = self.number("model.init_args.micro_batch_tokens", 0)
        return min(self.batch, max(1.0, most // tokens)) if most else self.batch

    def finish(
        self,
        roles: list[Role],
        network: Network,
        tokens: float,
        scored: float,
        per_row: tuple[float, float],
        cache: float = 0.0,
        nets: int = 1,
    ) -> Fit:
        """Put an estimate together.

        Args:
            roles: Networks.
            network: The trained backbone.
            tokens: Tokens of the longest batch.
            scored: Of these, tokens whose log-probabilities are taken.
            per_row: FLOPs of training and of sampling for a row.
            cache: Bytes of keys and values.
            nets: Trained networks whose activations are alive together.
        """
        kept, dropped = (
            nets * network.activations(tokens, self.half, flag) for flag in (False, True)
        )
        rows = self.rows or 0.0
        return Fit(
            tuple(roles),
            memory(
                roles,
                self.optimizer,
                activations=dropped if network.checkpointing else kept,
                scored_tokens=round(scored),
                vocab=network.shape.vocab if scored else 0,
                cache=round(cache),
                half=self.half,
                ranks=self.ranks,
                sharded=self.sharded,
                gathered=network.gathered(self.half) if self.sharded else 0,
                bucket_views=self.bucket_views,
            ),
            kept,
            dropped,
            self.rows,
            None if self.rows is None else self.rows / self.effective,
            self.effective,
            rows * per_row[0],
            rows * per_row[1],
        )


def _sft(run: _Run, network: Network) -> Fit:
    expect = run.expect
    longest = run.number("model.init_args.max_response_tokens", 128)
    prompt, response = expect.prompt_tokens, expect.response_tokens
    flops = network.training_flops(prompt + response, prompt + response, response)
    rows = run.held(expect.longest + longest)
    role = network.role("policy", writes=True, owns=True)
    tokens = rows * (expect.longest + longest)
    return run.finish([role], network, tokens, rows * longest, (flops, 0.0))


def _reward(run: _Run, network: Network) -> Fit:
    expect = run.expect
    place = "model.init_args.reward.init_args.max_response_tokens"
    longest = run.number(place, 128)
    prompt, response = expect.prompt_tokens, expect.response_tokens
    tokens = network.tokens(1, prompt, 2, response)
    flops = network.training_flops(tokens, prompt + response, 0)
    rows = run.held(expect.longest + 2 * longest)
    batch = network.tokens(rows, expect.longest, 2, longest)
    role = network.role("reward", writes=False, owns=True)
    return run.finish([role], network, batch, 0, (flops, 0.0))


def _a2c(run: _Run, network: Network) -> Fit:
    expect, shape = run.expect, network.shape
    num_generations = run.number("model.init_args.sampling.n", 4)
    longest = run.number("model.init_args.sampling.max_new_tokens", 64)
    prompt, response = expect.prompt_tokens, min(expect.response_tokens, longest)
    value = at(run.content, "model.init_args.actor.init_args.value_network")
    value = value or ("separate" if network.rank is None else "adapter")
    has_critic = value in ("separate", "adapter")  # else a head on states that are there anyway
    critic = network if value == "adapter" else replace(network, rank=None)
    # The reference of a policy that is trained whole is float32 like it.
    roles = [frozen_model("reference", shape, 4 if network.rank is None else network.width)]
    roles.append(network.role("policy", writes=True, owns=False))
    if has_critic:
        roles.append(critic.role("value", writes=False, owns=False))
    tokens, written = (
        network.tokens(1, prompt, num_generations, response),
        num_generations * response,
    )
    length = prompt + response
    flops = network.training_flops(tokens, length, written)
    flops += shape.forward_flops(tokens, length, written)  # reference
    flops += shape.forward_flops(prompt, prompt)  # prefill
    if has_critic:
        flops += critic.training_flops(tokens, length, 0)
    options = at(run.content, "model.init_args.reward.init_args")
    if at(options, "backbone") is not None:
        judge = read_network(options, run.experiment, expect)
        if isinstance(judge, Network):
            shared = network.top < shape.layers and judge.top == network.top
            weights = judge.top * judge.shape.layer_parameters
            roles.append(
                Role("reward", 0, weights, judge.width)
                if shared
                else frozen_model("reward", judge.shape, judge.width)
            )
            flops += judge.shape.forward_flops(tokens, length)
    decode = shape.forward_flops(written, length, written)
    rows = run.held(expect.longest + num_generations * longest)
    batch = network.tokens(rows, expect.longest, num_generations, longest)
    kept = run.batch * (expect.longest + num_generations * longest)
    cache = kept * shape.cache_bytes(2 if run.half else 4)
    scored = rows * num_generations * longest
    nets = 2 if has_critic else 1
    return run.finish(roles, network, batch, scored, (flops, decode), cache, nets)
