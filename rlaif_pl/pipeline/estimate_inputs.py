"""What estimates reckon with: sizes of models, rows of data sets, and the key ``expect``."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value, at, number_at, read_yaml

KNOWN: dict[str, Any] = read_yaml(Path(__file__).with_name("estimate_known.yaml"))
VARIANT = re.compile("(-Instruct|-instruct|-Base|-deduped|-it|-chat)+$")  # of the same size
LONGEST = 1.5  # the longest text of a batch over the mean, where nothing says


class ModelShape:
    """What decides how large a decoder is and what a token costs; ValueError for no dense decoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        # weights are counted on transformers' own modules, made of one layer and without memory
        heads = getattr(config, "num_attention_heads", None)
        inner = getattr(config, "intermediate_size", None)
        if not isinstance(heads, int) or not isinstance(inner, int):
            raise ValueError(f"expected a decoder, got {config.model_type}")
        single = copy.deepcopy(config)
        single.num_hidden_layers = 1
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(single)
        weights = {name: weight.shape for name, weight in model.named_parameters()}
        layer = [shape for name, shape in weights.items() if ".layers.0." in name]
        others = [shape for name, shape in weights.items() if ".layers.0." not in name]
        if not layer or any(len(shape) > 2 for shape in layer):  # experts: not every weight is used
            raise ValueError(f"expected a dense decoder, got {config.model_type}")
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        matrices = [shape for shape in layer if len(shape) == 2]
        self.hidden = config.hidden_size  # width D
        self.layers = config.num_hidden_layers
        self.query = heads * width  # width of all query heads, H d
        self.key = (getattr(config, "num_key_value_heads", None) or heads) * width  # K d
        self.intermediate = inner  # width I of the feed-forward layer
        self.gated = any("gate" in name for name in weights)  # three such matrices, not two
        self.vocab = config.vocab_size  # rows of the embedding
        self.matrices = sum(shape.numel() for shape in matrices)  # weights, of one layer
        self.matrix_sides = sum(map(sum, matrices))  # weights of an adapter of rank 1 on these
        self.layer = sum(shape.numel() for shape in layer)  # weights, with biases and norms
        self.final_norm = sum(shape.numel() for shape in others if len(shape) == 1)
        self.embedding = self.vocab * self.hidden
        # weights without an output embedding of their own, and all, each counted once
        self.decoder = self.embedding + self.layers * self.layer + self.final_norm
        is_tied = sum(len(shape) == 2 for shape in others) == 1
        self.parameters = self.decoder + (0 if is_tied else self.embedding)

    def forward_flops(self, tokens: float, length: float, scored: float = 0.0) -> float:
        """Multiplications and additions of tokens in texts of a mean length, with logits of some."""
        layer = 2 * self.matrices + 2 * self.query * length
        return tokens * self.layers * layer + 2 * scored * self.embedding

    def activation_bytes(self, layers: int, checkpointing: bool, half: bool = True) -> int:
        """Bytes that a token leaves for the backward pass through the last ``layers`` layers.

        Of transformers' Llama under autocast with a fused attention: at two norms residual, normalized
        state (4 each) and its cast (2), ``20 D``; query, rotated query and attention output, ``6 H d``;
        key, rotated key and value, ``6 K d``; gate, up, their activation and product, ``8 I`` (``4 I``
        without gate). Without autocast all is 4 wide; checkpointing keeps inputs and one layer's all.
        """
        width = 2 if half else 4
        whole = (8 + width) * 2 * self.hidden + 3 * width * (self.query + self.key)
        whole += (4 if self.gated else 2) * width * self.intermediate
        return 4 * self.hidden * layers + whole if checkpointing else whole * layers

    def cache_bytes(self, width: int = 2) -> int:
        """Bytes a token takes in the cache of keys and values."""
        return 2 * self.layers * self.key * width


def known_shape(name: str) -> ModelShape | None:
    """Return the shape of a model of the table or of a local folder's config.json; else None."""
    models = KNOWN["models"]
    if row := models.get(name) or models.get(VARIANT.sub("", name)):
        return _shape_of_row(*row)
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        return None
    try:
        return ModelShape(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError):  # no decoder, or a kind that transformers does not know
        return None


def shape_of_size(parameters: float) -> ModelShape:
    """Stand in for a model of which only the size is known: Llama's proportions, 32,000 tokens."""
    # layers have `12 D^2` weights in heads of 128; depth follows from `D = 128 x layers`
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    inner = round(8 * 128 * layers / 3)
    return _shape_of_row("llama", 128 * layers, layers, layers, layers, inner, 32000, False)


def _shape_of_row(kind: str, *sizes: int) -> ModelShape:
    return ModelShape(AutoConfig.for_model(kind, **dict(zip(KNOWN["columns"], sizes, strict=True))))


@dataclass(frozen=True, slots=True)
class Expect:
    """Assumptions of the estimates; nothing is trained differently for them."""

    gpus: PositiveInt = 1  # that train together (``trainer.devices: auto`` is not known beforehand)
    tflops: PositiveFloat = 312.0  # peak of one GPU in 16 bits, dense: an A100; 989 is an H100
    utilization: PositiveFloat = 0.35  # share of the peak in training and scoring, in (0, 1]
    decode_utilization: PositiveFloat = 0.01  # share while sampling: our own loop, one token a pass
    server_utilization: PositiveFloat = 0.1  # share that a server reaches on the tokens it writes
    usd_per_gpu_hour: PositiveFloat | None = None  # None counts no money
    prompt_tokens: PositiveFloat = 400.0  # mean of a prompt
    longest_prompt: PositiveFloat | None = None  # memory's; None: 1.5 times the mean
    response_tokens: PositiveFloat = 40.0  # mean of a response
    rationale_tokens: PositiveFloat = 61.0  # of a text a labeler writes: 2309.00267, appendix L
    rows: dict[str, PositiveFloat] = field(default_factory=dict)  # of sources: name or name:split
    num_params: dict[str, PositiveFloat] = field(default_factory=dict)  # of models not in the table

    @property
    def longest(self) -> float:
        """Tokens of the longest prompt of a batch."""
        return LONGEST * self.prompt_tokens if self.longest_prompt is None else self.longest_prompt

    def hours(self, flops: float, utilization: PositiveFloat | None = None) -> float:
        """GPU-hours of so many floating-point operations."""
        return flops / (self.tflops * 1e12 * (utilization or self.utilization) * 3600)


class Inputs:
    """Sizes of what an experiment's stages read; ValueError for unknown keys of ``expect``."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Expect, "expect")
        try:
            read = parser.parse_object({"expect": dict(experiment.expect)})
        except ArgumentError as error:
            said, keys = " ".join(str(error).split()), ", ".join(f.name for f in fields(Expect))
            raise ValueError(f"{experiment.file}: {said}; keys of expect: {keys}") from error
        self.expect: Expect = parser.instantiate(read).expect

    def maker(self, name: str) -> tuple[str, dict[str, Value]]:
        """Command and config of the stage whose folder a path lies in; "" where it is another."""
        first = name.removeprefix("${out}/").split("/", 1)[0]
        for stage in self.experiment.stages:
            if name.startswith("${out}/") and stage.name == first:
                return stage.command, self.experiment.resolve(stage, "${out}")
        return "", {}

    def shape(self, name: str) -> ModelShape | None:
        """A model's size: given, known, on disk, or that of the model an earlier stage starts from."""
        if given := self.expect.num_params.get(name):
            return shape_of_size(given)
        if shape := known_shape(name):
            return shape
        _, content = self.maker(name)
        for place in ("", "reward.init_args.", "actor.init_args."):
            inner = at(content, f"model.init_args.{place}backbone.name")
            if isinstance(inner, str) and inner != name:
                return self.shape(inner)
        run = content.get("run")  # select exports what an A2C stage trained
        return self.shape(f"{run}/policy") if isinstance(run, str) else None

    def rows(self, source: Value) -> float | None:
        """Rows of a data source, a name or its fields; None where nobody knows."""
        given = source if isinstance(source, dict) else {"name": source}
        name, limit = str(given.get("name")), given.get("limit")
        most = float(limit) if isinstance(limit, int) else None
        folder = given.get("data_dir") or given.get("subset")
        full = f"{name}/{folder}" if folder else name
        rows: dict[str, float] = {**KNOWN["rows"], **self.expect.rows}
        count = rows.get(f"{full}:{given.get('split', 'train')}", rows.get(full))
        command, made = self.maker(name)
        if count is None and command == "label":
            count = self.rows(made.get("pairs"))
        elif count is None and command == "sample" and (prompts := self.rows(made.get("prompts"))):
            count = prompts * (number_at(made, "sampling.n", 2) / 2 + number_at(made, "spliced", 0))
        if count is None:
            return most
        part = given.get("part")
        if isinstance(part, list) and len(part) == 2:
            count *= cast(float, part[1]) - cast(float, part[0])
        return float(count) if most is None else min(count, most)
