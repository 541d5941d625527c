"""Tiny random labelers in folders of their own, and the real data where it is at hand."""

import hashlib
import math
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rlaif_pl.labeling.calls import GenerateRequest, LoglikelihoodRequest, Response
from rlaif_pl.models.model_folder import save_causal
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
POSITIONS = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ENCODER_DECODER = {
    "vocab_size": 320,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "initializer_factor": 3.0,
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
        "gpt2": GPT2LMHeadModel(GPT2Config(**POSITIONS)),
        "cohere": CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.5)),
        "t5": T5ForConditionalGeneration(T5Config(**ENCODER_DECODER)),
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


class PlainModel:
    """A transformers model asked one text at a time, without batch or cache, to compare with."""

    def __init__(self, folder, seq2seq=False):
        kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        self.model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.seq2seq = seq2seq

    @torch.no_grad()
    def table(self, ids, source=None):
        """Log-probabilities after every token."""
        if self.seq2seq:
            start = self.model.config.decoder_start_token_id
            inputs = {"input_ids": source, "decoder_input_ids": torch.tensor([[start, *ids]])}
            return self.model(**inputs).logits[0].log_softmax(-1)
        return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def after(self, before, answer, source=None):
        """Log-probability of each token of the answer."""
        table = self.table([*before, *answer], source)
        first = len(before) + self.seq2seq  # the decoder's start stands in front
        return [table[first - 1 + n, token].item() for n, token in enumerate(answer)]

    def option(self, text, option):
        """Log-probability that the text goes on with the option."""
        before = self.tokenizer(text).input_ids
        whole = self.tokenizer(text + option).input_ids
        assert whole[: len(before)] == before
        return math.fsum(self.after(before, whole[len(before) :]))

    def next_token(self, ids, source=None):
        """Log-probabilities of the next token among those that the tokenizer has."""
        return self.table(ids, source)[-1, : len(self.tokenizer)].log_softmax(-1)

    @torch.no_grad()
    def greedy(self, ids, count):
        """The likeliest next tokens, one after the other."""
        written = []
        for _ in range(count):
            written.append(self.next_token([*ids, *written]).argmax().item())
        return written


@pytest.fixture(scope="session")
def plain_model(folders):
    """Return a function that loads a model to compare with."""
    return lambda name: PlainModel(folders[name], seq2seq=name == "t5")


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
        if isinstance(call, LoglikelihoodRequest):
            return self._score(call)
        text = call.question.text + call.question.assistant_prefix
        failure = self.fail(call)
        if self.limit is not None and len(text) > self.limit:
            failure = "too_long"
        if failure is not None:
            return Response(read=len(text), cost_usd=0.001, failure=failure)
        if isinstance(call, GenerateRequest):
            return Response(text=self.write(call), read=len(text), written=7, cost_usd=0.002)
        shares = [self._number(text, option) for option in call.options]
        outside = self._number(text, "outside")
        total = math.fsum([*shares, outside])
        return Response(
            logprobs=tuple(math.log(each / total) for each in shares),
            read=len(text),
            cost_usd=0.001,
        )

    def _score(self, call):
        if not call.target:
            return Response(failure="empty")
        logs = [
            math.log(self._number(call.context, call.target, str(place)))
            for place in range(1 + len(call.target) // 4)
        ]
        return Response(logprobs=tuple(logs), read=len(call.context) + len(logs), cost_usd=0.001)

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


@pytest.fixture(scope="session")
def pair():
    """One pair, labeled by nobody."""
    return Preference("It rained all day.", "Rain all day.", "It was dry.", "g")


@pytest.fixture
def real_data():
    """Folder with real comparisons; skips where there is none."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RLAIF_PL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set RLAIF_PL_DATA")
    return folder
