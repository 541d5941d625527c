"""Tiny random labelers in folders of their own, and the real data where it is at hand."""

import hashlib
import math
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

from rlaif_pl.labeling.calls import Generate, Reply
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


class HashedBackend:
    """A back end without a model: every reply follows from a hash of what was asked.

    Its answers depend on the whole text and so on the order of the responses, like a biased
    model's, and are the same for the same call.
    """

    def __init__(self, fail=None, write=None, limit=None):
        self.fail = fail or (lambda _: None)
        self.write = write or self._words
        self.limit = limit
        self.asked = []

    @property
    def fingerprint(self):
        return "hashed"

    def answer(self, calls, done):
        # Last call first, because a back end may answer in any order.
        for place, call in reversed(list(enumerate(calls))):
            self.asked.append(call)
            done(place, self._reply(call))

    def _reply(self, call):
        text = call.question.text + call.question.opening
        failure = self.fail(call)
        if self.limit is not None and len(text) > self.limit:
            failure = "too_long"
        if failure is not None:
            return Reply(read=len(text), cost_usd=0.001, failure=failure)
        if isinstance(call, Generate):
            return Reply(text=self.write(call), read=len(text), written=7, cost_usd=0.002)
        shares = [self._number(text, option) for option in call.options]
        outside = self._number(text, "outside")
        total = math.fsum([*shares, outside])
        return Reply(
            logprobs=tuple(math.log(each / total) for each in shares),
            read=len(text),
            cost_usd=0.001,
        )

    def _words(self, call):
        drawn = self._number(call.question.text, f"{call.sample},{call.decoding.seed}")
        return f" The one is {drawn:.3f} times as good as the other."

    @staticmethod
    def _number(*parts):
        digest = hashlib.sha256("\0".join(parts).encode()).digest()
        return (int.from_bytes(digest[:6], "big") + 1) / 2**48


@pytest.fixture(scope="session")
def hashed():
    """Makes back ends that answer by hashing."""
    return HashedBackend


@pytest.fixture
def real_data():
    """Folder with real comparisons; skips where there is none."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RLAIF_PL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set RLAIF_PL_DATA")
    return folder
