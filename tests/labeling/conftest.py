"""Tiny random labelers in folders of their own, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from rlaif_pl.models.backbone import save_causal
from rlaif_pl.types import Preference

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with an EOS, no pad token, and a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["The cat sat on the mat. TL;DR: a cat. POST: the dog"], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="session")
def folders(tokenizer, tmp_path_factory):
    """Folders of tiny random models by architecture."""
    root = tmp_path_factory.mktemp("labelers")
    torch.manual_seed(11)
    capped = Gemma2Config(
        **SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, final_logit_softcapping=2.0
    )
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE)),
        "mistral": MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16)),
        "gemma2": Gemma2ForCausalLM(capped),
    }
    return {name: str(save_causal(root / name, model, tokenizer)) for name, model in made.items()}


@pytest.fixture
def pairs():
    """Three pairs over two prompts of different lengths, each labeled by nobody."""
    long = "the dog sat on the mat and the cat sat on the dog. " * 2
    return [
        Preference(long, "a dog and a cat", "cat", "p0"),
        Preference("the cat, alone", "a cat is alone", "the dog sat", "p1"),
        Preference(long, "mat", "the mat has two", "p0"),
    ]


@pytest.fixture
def real_data():
    """Folder with real comparisons; skips where there is none."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RLAIF_PL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set RLAIF_PL_DATA")
    return folder
