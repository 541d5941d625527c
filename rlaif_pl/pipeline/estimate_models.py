"""Sizes of decoder-only transformers: weights, activations, arithmetic, without a download or a GPU.

Weights are counted on transformers' own modules, made of one layer and without memory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rlaif_pl.pipeline.yaml_files import Value, read_yaml

FIELDS = (  # of a row of estimate_known.yaml
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
ENDINGS = ("-Instruct", "-instruct", "-Base", "-deduped", "-it", "-chat")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides how large a decoder is and what a token costs."""

    hidden: int  # width D
    layers: int
    query: int  # width of all query heads, H d
    key: int  # width of all key heads, K d
    intermediate: int  # width I of the feed-forward layer
    gated: bool  # three feed-forward matrices (SwiGLU) in place of two
    vocab: int  # rows of the embedding
    tied: bool  # one matrix for input and output embedding
    matrices: int  # weights of the linear layers of one layer
    matrix_sides: int  # rows and columns of these: weights of an adapter of rank 1
    vectors: int  # biases and norm weights of one layer
    final_norm: int  # weights of the last norm

    @property
    def embedding(self) -> int:
        """Weights of one embedding."""
        return self.vocab * self.hidden

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        return self.matrices + self.vectors

    @property
    def decoder(self) -> int:
        """Weights without an output embedding of their own."""
        return self.embedding + self.layers * self.layer + self.final_norm

    @property
    def parameters(self) -> int:
        """All weights, each counted once."""
        return self.decoder + (0 if self.tied else self.embedding)

    def forward_flops(self, tokens: float, length: float, scored: float = 0.0) -> float:
        """Floating-point operations of a forward pass; a multiplication and an addition are two.

        Of ``tokens`` in all, in texts of a mean ``length`` (which attention looks back over, half
        of it on average), with vocabulary logits of ``scored`` tokens.
        """
        layer = 2 * self.matrices + 2 * self.query * length
        return tokens * self.layers * layer + 2 * scored * self.embedding

    def activation_bytes(self, layers: int, checkpointing: bool, half: bool = True) -> int:
        """Bytes that a token leaves for the backward pass through the last ``layers`` layers.

        Counted from transformers' Llama under autocast with a fused attention. Per layer, in bytes a
        token: residual, normalized state (4 each) and its cast (2), at two norms: ``20 D``; query,
        rotated query and attention output at 2: ``6 H d``; key, rotated key and value: ``6 K d``; gate,
        up, their activation and product at 2: ``8 I`` (``4 I`` without gate). Without autocast all is
        4 bytes wide. With checkpointing, each layer's input (4 bytes) and one layer's all.
        """
        width = 2 if half else 4
        whole = (8 + width) * 2 * self.hidden + 3 * width * (self.query + self.key)
        whole += (4 if self.gated else 2) * width * self.intermediate
        return 4 * self.hidden * layers + whole if checkpointing else whole * layers

    def cache_bytes(self, width: int = 2) -> int:
        """Bytes a token takes in the cache of keys and values."""
        return 2 * self.layers * self.key * width


@cache
def known() -> dict[str, dict[str, Value]]:
    """Models and data sets whose sizes are known without a download."""
    file = Path(__file__).with_name("estimate_known.yaml")
    return cast(dict[str, dict[str, Value]], read_yaml(file))


def known_shape(name: str) -> ModelShape | None:
    """Return the shape of a model of the table, or of a local folder's config.json; else None.

    Endings such as ``-Instruct`` are looked through.
    """
    short = name
    for ending in ENDINGS:
        short = short.removesuffix(ending)
    row = known()["models"].get(name) or known()["models"].get(short)
    if isinstance(row, list):
        return shape_of(_config(str(row[0]), *row[1:]))
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        return None
    try:
        return shape_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError):  # a kind of model that transformers does not know
        return None


def shape_of_size(parameters: float) -> ModelShape | None:
    """Stand in for a model of which only the size is known: Llama's proportions, 32,000 tokens.

    Llama's layers have ``12 D^2`` weights in heads of 128; depth follows from ``D = 128 x layers``.
    """
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    hidden = 128 * layers
    return shape_of(
        _config("llama", hidden, layers, layers, layers, round(8 * hidden / 3), 32000, False)
    )


def _config(kind: str, *sizes: Value) -> PretrainedConfig:
    return AutoConfig.for_model(kind, **dict(zip(FIELDS, sizes, strict=True)))


def shape_of(config: PretrainedConfig) -> ModelShape | None:
    """Count the weights of one layer and of the rest; None for what is no dense decoder."""
    heads = getattr(config, "num_attention_heads", None)
    inner = getattr(config, "intermediate_size", None)
    if not isinstance(heads, int) or not isinstance(inner, int):
        return None
    single = copy.deepcopy(config)
    single.num_hidden_layers = 1
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(single)
    except ValueError:  # an encoder, or an encoder-decoder
        return None
    weights = {name: weight.shape for name, weight in model.named_parameters()}
    layer = [shape for name, shape in weights.items() if ".layers.0." in name]
    if not layer or any(len(shape) > 2 for shape in layer):  # experts: not every weight is used
        return None
    others = [shape for name, shape in weights.items() if ".layers.0." not in name]
    matrices = [shape for shape in layer if len(shape) == 2]
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        query=heads * width,
        key=(getattr(config, "num_key_value_heads", None) or heads) * width,
        intermediate=inner,
        gated=any("gate" in name for name in weights),
        vocab=config.vocab_size,
        tied=sum(len(shape) == 2 for shape in others) == 1,
        matrices=sum(shape.numel() for shape in matrices),
        matrix_sides=sum(sum(shape) for shape in matrices),
        vectors=sum(shape.numel() for shape in layer if len(shape) == 1),
        final_norm=sum(shape.numel() for shape in others if len(shape) == 1),
    )
