"""Tiny random policies that do not repeat themselves, over the shared tokenizer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.text import Template

VOCAB = 300
WINDOW = 16
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tiny_model_folder) -> Callable[[str], str]:
    """Return a function from an architecture to the folder of its tiny model."""
    root = tmp_path_factory.mktemp("policies")
    build = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(**GPT2, initializer_range=0.5, bos_token_id=None, eos_token_id=1)
        ),
    }

    def folder(name: str) -> str:
        path: Path = root / name
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(5)
                build[name]().save_pretrained(path)
            AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(path)
        return str(path)

    return folder


@pytest.fixture
def policy_of(model_folder) -> Callable[..., CausalModel]:
    """Return a loader of tiny policies; keywords are ``BackboneOptions``."""
    return lambda name="llama", **options: load_policy(
        BackboneOptions(model_folder(name), **options), Template()
    )


@pytest.fixture
def plain_of(model_folder) -> Callable[[str], PreTrainedModel]:
    """Return a loader of the same models by transformers alone."""
    return lambda name: AutoModelForCausalLM.from_pretrained(
        model_folder(name), dtype=torch.float32
    ).eval()
