"""Tiny random models of several architectures, made offline."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 320
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GEMMA = {**SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8}
CAPPED = {"attn_implementation": "eager"}  # transformers up to 5.17 takes one that does not cap
KINDS = ["sliding_attention", "full_attention"] * 2
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT_NEO = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "attention_types": [[["global"], 4]],
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "embed_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture
def make_model():
    """Return a builder of frozen tiny causal LMs by architecture name."""

    def make(name, window=None):
        torch.manual_seed(7)
        build = {
            "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
            "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
            "gpt_neo": lambda: GPTNeoForCausalLM(GPTNeoConfig(**GPT_NEO)),
            "gpt_neox": lambda: GPTNeoXForCausalLM(
                GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"})
            ),
            "mixtral": lambda: MixtralForCausalLM(
                MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
            ),
            "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)),
            "gemma2": lambda: Gemma2ForCausalLM(
                Gemma2Config(**GEMMA, **CAPPED, sliding_window=window or 128, layer_types=KINDS)
            ),
            "gemma3": lambda: Gemma3ForCausalLM(
                Gemma3TextConfig(**GEMMA, sliding_window=window or 128, layer_types=KINDS)
            ),
        }
        return build[name]().eval().requires_grad_(False)

    return make
