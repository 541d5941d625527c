import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from rlaif_pl.pipeline.estimate_inputs import ModelShape, known_shape, shape_of_size
from rlaif_pl.pipeline.estimate_training import CONTEXT_BYTES, Memory, Role

# D 4, 2 layers, 2 heads of 2 with 1 key head, I 5, V 7: worked by hand below.
SMALL = ModelShape(
    LlamaConfig(
        hidden_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=5,
        vocab_size=7,
        tie_word_embeddings=True,
    )
)


def test_parameters_by_hand():
    # q 4x4=16, k and v 2x4=8 each, o 4x4=16: 48; three of 5x4=20: 60; two norms of 4: 8. 116 a layer.
    assert SMALL.layer == 116
    # embedding 7x4=28, 2 x 116, last norm 4; tied.
    assert SMALL.parameters == 264
    # rank 1 on each linear layer: (4+4) + 2 (2+4) + (4+4) + 3 (5+4)
    assert SMALL.matrix_sides == 55


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


def test_a_local_folder_is_read(tiny_model_folder):
    shape = known_shape(str(tiny_model_folder))
    assert (shape.hidden, shape.layers, shape.query, shape.key) == (32, 4, 32, 16)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert shape.parameters == model.num_parameters()


def test_what_is_not_known_is_not_guessed(tmp_path):
    assert known_shape("somebody/unheard-of-7b") is None
    for kind in ("mamba", "bert", "t5", "mixtral", "no-such-kind"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert known_shape(str(tmp_path)) is None


@pytest.mark.parametrize("size", [1.3e9, 7e9, 70e9])
def test_a_size_alone_gives_a_shape_of_about_that_size(size):
    assert shape_of_size(size).parameters == pytest.approx(size, rel=0.2)


def test_forward_flops_by_hand():
    # 108 weights in matrices a layer, 216 in both; 10 tokens of length 6:
    # 10 x (2 x 216 + 2 x 2 layers x 2 heads x 2 x 6) = 10 x (432 + 96) = 5280; 5 scored: 2 x 5 x 28
    assert SMALL.forward_flops(10, 6) == 5280
    assert SMALL.forward_flops(10, 6, scored=5) == 5560


def test_activations_by_hand():
    # 20 x 4 + 6 x (2+1) x 2 + 8 x 5 = 80 + 36 + 40 = 156 a layer and token
    assert SMALL.activation_bytes(2, checkpointing=False) == 312
    # each layer's input, 4 bytes wide, and one layer's all: 2 x 16 + 156
    assert SMALL.activation_bytes(2, checkpointing=True) == 188
    # everything 4 wide: 24 x 4 + 12 x 6 + 16 x 5
    assert SMALL.activation_bytes(1, checkpointing=False, half=False) == 96 + 72 + 80
    # keys and values of 1 head of 2 in 2 layers, 2 bytes each
    assert SMALL.cache_bytes() == 16


def casts_of(shape, half):
    """Bytes of 16-bit copies as the estimate counts them: of every weight, embeddings too."""
    return 2 * shape.decoder if half else 0


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.05), (True, 0.2)])
def test_activations_as_a_forward_pass_keeps_them(half, tolerance):
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=160,
        vocab_size=50,
    )
    shape = ModelShape(config)
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
        states = model(input_ids=torch.randint(0, 50, (2, 256)), use_cache=False)
    casts = 2 * 3 * shape.matrices if half else 0
    measured = sum(size for size, _ in kept.values()) - casts
    expected = 512 * shape.activation_bytes(3, checkpointing=False, half=half)
    assert measured == pytest.approx(expected, rel=tolerance)
    optimizer = torch.optim.AdamW(model.parameters())
    states.last_hidden_state.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    held = sum(p.nbytes + p.grad.nbytes for p in model.parameters())
    held += sum(moment.nbytes for moment in moments if moment.dim())
    found = Memory([Role("policy", shape.decoder, 0)], half=half, activations=expected)
    assert found.weights + found.gradients + found.optimizer == held + casts_of(shape, half)
    peak = held + casts_of(shape, half) + measured
    assert found.total - CONTEXT_BYTES == pytest.approx(peak, rel=tolerance)
