"""Shared fixtures: devices, seeds, a tiny model with small data, and no network or W&B account."""

import dataclasses
import gc
import os
import sys
from pathlib import Path

# Read where transformers is imported: a name that is nobody's folder is not looked for in the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read where torch is imported: tests that run side by side must not fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.sources import DataSource, load_demonstrations
from rlaif_pl.models import BackboneOptions, RewardModel
from rlaif_pl.text import truncate_words
from rlaif_pl.types import Preference, Prompt

# Fixtures that several folders of tests need; loaded by path, since tests are no package.
sys.path.insert(0, str(Path(__file__).parent / "plugins"))
pytest_plugins = ["architectures", "claimed"]

VOCAB = 300


def pytest_collection_finish():
    """Keep what imports made, a million objects that live to the end, out of garbage collection."""
    gc.collect()
    gc.freeze()


def posts():
    """Posts that the tests' tokenizer and files are made of; the package's may change, these not."""
    columns = {"prompt": "post", "reference": "summary", "group": "id"}
    file = Path(__file__).with_name("posts.jsonl")
    return load_demonstrations(DataSource(str(file), columns=columns))


@pytest.fixture
def cuda_here() -> torch.device:
    """Return the CUDA device; skip where there is none, unless the job promised one."""
    if not torch.cuda.is_available():
        if os.environ.get("RLAIF_PL_REQUIRE_CUDA") == "1":
            pytest.fail("RLAIF_PL_REQUIRE_CUDA=1 but torch sees no CUDA device")
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Yield each device."""
    return torch.device("cpu") if request.param == "cpu" else request.getfixturevalue("cuda_here")


@pytest.fixture(autouse=True)
def quiet_world(monkeypatch):
    """Fix the seed and float32's products, forbid hub downloads and W&B uploads."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the stack, a GPU or not
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
        # Some images set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, whose products have 10 bits.
        torch.set_float32_matmul_precision("highest")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """Write a random four-layer Llama and a byte-level BPE tokenizer, as transformers saves them."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((post.text for post in posts()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", model_max_length=4096
    )
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(11)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_model_folder(tiny_model_folder) -> Path:
    """Write the tiny Llama with ChatML, whose turns do not end in the tokenizer's EOS."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder)
    with torch.random.fork_rng():
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    folder = tiny_model_folder.with_name("chat_model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reward_folder(tiny_model_folder) -> Path:
    """Write an untrained reward model over the tiny Llama."""
    model = RewardModel(BackboneOptions(str(tiny_model_folder), trunk_layers=2))
    return model.save_pretrained(tiny_model_folder.with_name("reward_model"))


@pytest.fixture(scope="session")
def small_prompts() -> list[Prompt]:
    """First words of twelve posts, with first words of their summaries."""
    return [
        Prompt(truncate_words(post.text, 8), post.group, truncate_words(post.reference, 5))
        for post in posts()[:12]
    ]


@pytest.fixture(scope="session")
def small_pairs(small_prompts) -> list[Preference]:
    """Two responses of different lengths to each small prompt, softly labeled both ways."""
    return [
        Preference(
            prompt.text,
            str(prompt.reference),
            truncate_words(prompt.text, 2 + n % 3),
            prompt.group,
            p_first=0.2 + 0.1 * (n % 7),
            weight=1.0 + n % 2,
            source="ai",
        )
        for n, prompt in enumerate(small_prompts)
    ]


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """The small data as files, by absolute path."""

    prompts: str
    pairs: str
    unlabeled: str


@pytest.fixture(scope="session")
def data_files(tmp_path_factory, small_prompts, small_pairs) -> DataFiles:
    """Write the small data."""
    folder = tmp_path_factory.mktemp("data")
    write_prompts(folder / "prompts.jsonl", small_prompts)
    write_preferences(folder / "pairs.jsonl", small_pairs)
    bare = [dataclasses.replace(pair, p_first=None, source=None) for pair in small_pairs]
    write_preferences(folder / "unlabeled.jsonl", bare)
    return DataFiles(*(str(folder / f"{name}.jsonl") for name in ("prompts", "pairs", "unlabeled")))
