import json

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlaif_pl.pipeline.estimate_models import (
    KNOWN,
    ModelShape,
    known_shape,
    shape_of_config,
    shape_of_size,
)

# D 4, 2 layers, 2 heads of 3 with 1 key head, I 5, V 7: worked by hand below.
SMALL = ModelShape(4, 2, 2, 1, 3, 5, 7)


def test_parameters_by_hand():
    # q 6x4=24, k and v 3x4=12 each, o 4x6=24: 72; three of 5x4=20: 60; two norms of 4: 8. 140 a layer.
    assert SMALL.layer_parameters == 140
    # embedding 7x4=28, 2 x 140, last norm 4; tied.
    assert SMALL.parameters == 312
    # rank 2 on each linear layer: (6+4) + 2 (3+4) + (4+6) + 3 (5+4) = 61; x 2 x 1 layer
    assert SMALL.lora_parameters(2, 1) == 122


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the hub counts them in the published files
    [
        ("smollm2-135m", 134_515_008),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552),
        ("EleutherAI/pythia-1.4b-deduped", 1_414_647_808),
    ],
)
def test_well_known_models_have_their_published_size(name, parameters):
    shape = known_shape(name)
    assert shape is not None
    assert shape.parameters == parameters


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B", "EleutherAI/pythia-410m"])
def test_transformers_counts_the_same(name):
    shape = KNOWN[name]
    sizes = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "tie_word_embeddings": shape.tied,
    }
    grouped = {"num_key_value_heads": shape.kv_heads}
    config = (
        GPTNeoXConfig(**sizes)
        if shape.biased
        else Qwen3Config(**sizes, **grouped, head_dim=shape.head_dim)
        if shape.qk_norm
        else Qwen2Config(**sizes, **grouped)
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_a_local_folder_is_read(tiny_model_folder):
    shape = known_shape(str(tiny_model_folder))
    assert shape == ModelShape(32, 4, 4, 2, 8, 64, 300)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert shape.parameters == model.num_parameters()


def test_what_is_not_known_is_not_guessed(tmp_path):
    assert known_shape("somebody/unheard-of-7b") is None
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "mamba"}))
    assert shape_of_config(path) is None


@pytest.mark.parametrize("size", [1.3e9, 7e9, 70e9])
def test_a_size_alone_gives_a_shape_of_about_that_size(size):
    assert shape_of_size(size).parameters == pytest.approx(size, rel=0.2)


def test_forward_flops_by_hand():
    # 132 weights in matrices a layer, 264 in both; 10 tokens of length 6:
    # 10 x (2 x 264 + 2 x 2 layers x 2 heads x 3 x 6) = 10 x (528 + 144) = 6720; 5 scored: 2 x 5 x 28
    assert SMALL.forward_flops(10, 6) == 6720
    assert SMALL.forward_flops(10, 6, scored=5) == 7000


def test_activations_by_hand():
    # 20 x 4 + 6 x (2+1) x 3 + 8 x 5 = 80 + 54 + 40 = 174 a layer and token
    assert SMALL.activation_bytes(2, checkpointing=False) == 348
    # each layer's input, 4 bytes wide, and one layer's all: 2 x 16 + 174
    assert SMALL.activation_bytes(2, checkpointing=True) == 206
    # everything 4 wide: 24 x 4 + 12 x 9 + 16 x 5
    assert SMALL.activation_bytes(1, checkpointing=False, half=False) == 96 + 108 + 80
    # keys and values of 1 head of 3 in 2 layers, 2 bytes each
    assert SMALL.cache_bytes() == 24


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.05), (True, 0.2)])
def test_activations_as_a_forward_pass_keeps_them(half, tolerance):
    shape = ModelShape(64, 3, 4, 2, 16, 160, 50)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=160,
        vocab_size=50,
    )
    model = AutoModel.from_config(config, attn_implementation="sdpa").train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that no other is here
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model(input_ids=torch.randint(0, 50, (2, 256)), use_cache=False)
    casts = 2 * 3 * sum(m.size for m in shape.layer_matrices) if half else 0
    measured = sum(size for size, _ in kept.values()) - casts
    expected = 512 * shape.activation_bytes(3, checkpointing=False, half=half)
    assert measured == pytest.approx(expected, rel=tolerance)
