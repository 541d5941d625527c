"""Sizes of decoder-only transformers, from their configs: parameters, activations, arithmetic.

Pure functions of a few numbers, so that a plan can be made without a download, a GPU or torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple


class Matrix(NamedTuple):
    """A weight of two dimensions."""

    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides how large a decoder is and what a token costs.

    Attributes:
        hidden: Width ``D``.
        layers: Number of layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        intermediate: Width of the feed-forward layer.
        vocab: Rows of the embedding ``V``.
        tied: One matrix for input and output embedding.
        gated: Three feed-forward matrices (SwiGLU) in place of two.
        qkv_bias: Biases on query, key and value.
        qk_norm: Norms over each head's query and key.
        biased: Biases everywhere, and norms with them (GPT-NeoX).
        norms: Norms a layer.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = True
    gated: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    biased: bool = False
    norms: int = 2

    @property
    def layer_matrices(self) -> tuple[Matrix, ...]:
        """Linear layers of one layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        up = Matrix(self.intermediate, self.hidden)
        return (
            Matrix(query, self.hidden),
            Matrix(key, self.hidden),
            Matrix(key, self.hidden),
            Matrix(self.hidden, query),
            *([up, up] if self.gated else [up]),
            Matrix(self.hidden, self.intermediate),
        )

    @property
    def layer_vectors(self) -> int:
        """Biases and norm weights of one layer."""
        norm = self.hidden * (2 if self.biased else 1)
        count = self.norms * norm + (2 * self.head_dim if self.qk_norm else 0)
        if self.biased:
            return count + sum(matrix.rows for matrix in self.layer_matrices)
        if self.qkv_bias:
            return count + sum(matrix.rows for matrix in self.layer_matrices[:3])
        return count

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        return sum(matrix.size for matrix in self.layer_matrices) + self.layer_vectors

    @property
    def embedding(self) -> Matrix:
        """Input embedding; the output embedding has the same size."""
        return Matrix(self.vocab, self.hidden)

    @property
    def final_norm(self) -> int:
        """Weights of the last norm."""
        return self.hidden * (2 if self.biased else 1)

    @property
    def decoder_parameters(self) -> int:
        """Input embedding, layers and last norm: everything but an output embedding of its own."""
        return self.embedding.size + self.layers * self.layer_parameters + self.final_norm

    @property
    def parameters(self) -> int:
        """All weights, each counted once."""
        return self.decoder_parameters + (0 if self.tied else self.embedding.size)

    def lora_parameters(self, rank: int, layers: int) -> int:
        """Weights of adapters on every linear layer of the last ``layers`` layers."""
        return layers * rank * sum(m.rows + m.columns for m in self.layer_matrices)

    def forward_flops(self, tokens: float, length: float, scored: float = 0.0) -> float:
        """Floating-point operations of a forward pass; a multiplication and an addition are two.

        Args:
            tokens: Tokens read, in all.
            length: Mean length of a text, which attention looks back over (half of it on average).
            scored: Tokens whose vocabulary logits are computed.
        """
        matrices = self.layers * sum(matrix.size for matrix in self.layer_matrices)
        attention = 2 * self.layers * self.heads * self.head_dim * length
        return tokens * (2 * matrices + attention) + 2 * scored * self.embedding.size

    def activation_bytes(self, layers: int, checkpointing: bool, half: bool = True) -> int:
        """Bytes that a token leaves for the backward pass through the last ``layers`` layers.

        Counted from transformers' Llama under autocast with a fused attention. Per layer, in bytes a
        token: residual, normalized state (4 each) and its cast (2), at two norms: ``20 D``; query,
        rotated query and attention output at 2: ``6 H d``; key, rotated key and value: ``6 K d``; gate,
        up, their activation and product at 2: ``8 I`` (``4 I`` without gate). Without autocast all is
        4 bytes wide. With checkpointing, each layer's input (4 bytes) and one layer's all.

        Args:
            layers: Layers that are trained.
            checkpointing: Whether layers are recomputed in the backward pass.
            half: Whether matrices are multiplied in 16 bits.
        """
        width = 2 if half else 4
        wide = (8 + width) * 2 * self.hidden
        attention = 3 * width * (self.heads + self.kv_heads) * self.head_dim
        inner = (4 if self.gated else 2) * width * self.intermediate
        whole = wide + attention + inner
        return 4 * self.hidden * layers + whole if checkpointing else whole * layers

    def cache_bytes(self, width: int = 2) -> int:
        """Bytes a token takes in the cache of keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * width


def _qwen(
    hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, tied: bool
) -> ModelShape:
    return ModelShape(hidden, layers, heads, kv, 128, inner, vocab, tied, qkv_bias=True)


def _neox(hidden: int, layers: int, heads: int, vocab: int) -> ModelShape:
    return ModelShape(
        hidden,
        layers,
        heads,
        heads,
        hidden // heads,
        4 * hidden,
        vocab,
        tied=False,
        gated=False,
        biased=True,
    )


# From the config.json of each on the hub; instruction-tuned versions have the same sizes.
KNOWN: dict[str, ModelShape] = {
    "smollm2-135m": ModelShape(576, 30, 9, 3, 64, 1536, 49152),
    "HuggingFaceTB/SmolLM2-135M": ModelShape(576, 30, 9, 3, 64, 1536, 49152),
    "HuggingFaceTB/SmolLM2-360M": ModelShape(960, 32, 15, 5, 64, 2560, 49152),
    "HuggingFaceTB/SmolLM2-1.7B": ModelShape(2048, 24, 32, 32, 64, 8192, 49152),
    "Qwen/Qwen2.5-0.5B": replace(_qwen(896, 24, 14, 2, 4864, 151936, True), head_dim=64),
    "Qwen/Qwen2.5-1.5B": _qwen(1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-3B": _qwen(2048, 36, 16, 2, 11008, 151936, True),
    "Qwen/Qwen2.5-7B": _qwen(3584, 28, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-14B": _qwen(5120, 48, 40, 8, 13824, 152064, False),
    "Qwen/Qwen2.5-32B": _qwen(5120, 64, 40, 8, 27648, 152064, False),
    "Qwen/Qwen2.5-72B": _qwen(8192, 80, 64, 8, 29568, 152064, False),
    "Qwen/Qwen3-0.6B": ModelShape(1024, 28, 16, 8, 128, 3072, 151936, qk_norm=True),
    "Qwen/Qwen3-1.7B": ModelShape(2048, 28, 16, 8, 128, 6144, 151936, qk_norm=True),
    "Qwen/Qwen3-4B": ModelShape(2560, 36, 32, 8, 128, 9728, 151936, qk_norm=True),
    "Qwen/Qwen3-8B": ModelShape(4096, 36, 32, 8, 128, 12288, 151936, tied=False, qk_norm=True),
    "meta-llama/Llama-3.2-1B": ModelShape(2048, 16, 32, 8, 64, 8192, 128256),
    "meta-llama/Llama-3.2-3B": ModelShape(3072, 28, 24, 8, 128, 8192, 128256),
    "meta-llama/Llama-3.1-8B": ModelShape(4096, 32, 32, 8, 128, 14336, 128256, tied=False),
    "meta-llama/Llama-3.3-70B": ModelShape(8192, 80, 64, 8, 128, 28672, 128256, tied=False),
    "mistralai/Mistral-7B-v0.3": ModelShape(4096, 32, 32, 8, 128, 14336, 32768, tied=False),
    "EleutherAI/pythia-410m": _neox(1024, 24, 16, 50304),
    "EleutherAI/pythia-1b": _neox(2048, 16, 8, 50304),
    "EleutherAI/pythia-1.4b": _neox(2048, 24, 16, 50304),
    "EleutherAI/pythia-2.8b": _neox(2560, 32, 32, 50304),
    "EleutherAI/pythia-6.9b": _neox(4096, 32, 32, 50432),
}
ENDINGS = ("-Instruct", "-instruct", "-Base", "-deduped", "-it", "-chat")
GATED_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "smollm3")


def known_shape(name: str) -> ModelShape | None:
    """Return the shape of a model in the table, or of a local folder's config.json; else None.

    Args:
        name: As in ``BackboneOptions.name``; endings such as ``-Instruct`` are looked through.
    """
    short = name
    for ending in ENDINGS:
        short = short.removesuffix(ending)
    for each in (name, short):
        if each in KNOWN:
            return KNOWN[each]
    config = Path(name).expanduser() / "config.json"
    return shape_of_config(config) if config.is_file() else None


def shape_of_config(path: Path) -> ModelShape | None:
    """Read a transformers config.json; None where it is of a kind whose sizes are not known here."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kind = content.get("model_type")
    if kind not in GATED_TYPES:
        return None
    heads = int(content["num_attention_heads"])
    return ModelShape(
        hidden=int(content["hidden_size"]),
        layers=int(content["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(content.get("num_key_value_heads") or heads),
        head_dim=int(content.get("head_dim") or content["hidden_size"] // heads),
        intermediate=int(content["intermediate_size"]),
        vocab=int(content["vocab_size"]),
        tied=bool(content.get("tie_word_embeddings", kind.startswith("gemma"))),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        norms=4 if kind == "gemma2" else 2,
    )


def shape_of_size(parameters: float) -> ModelShape:
    """Stand in for a model of which only the size is known: Llama's proportions, 32,000 tokens.

    Llama's layers have ``12 D^2`` weights in heads of 128; depth follows from ``D = 128 x layers``.
    """
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    hidden = 128 * layers
    return ModelShape(hidden, layers, layers, layers, 128, round(8 * hidden / 3), 32000, tied=False)
