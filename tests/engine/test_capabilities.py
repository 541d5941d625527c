"""Probes: right models pass whatever their rounding, wrong ones are found out, in both types."""

import pytest
import torch
from torch import nn
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from rlaif_pl.engine import capabilities
from rlaif_pl.engine.attention import segments
from rlaif_pl.engine.attention.leaf import Scoring
from rlaif_pl.engine.batch import PackedBatch, Segment, pack_segments
from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.noise import FACTOR, Noise, error_in_noise
from rlaif_pl.engine.response_batch import assemble, hidden_states
from rlaif_pl.engine.runner import DecoderRunner

TYPES = [torch.float32, torch.bfloat16]
LARGE = [3, 17]  # dimensions that are made thousands of times as large as the others
MODELS = [
    *((name, None) for name in ("llama", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3")),
    *((name, 4) for name in ("mistral", "gemma3")),
]
PROMPTS = [[40, 50, 60, 70, 80, 90], [33], [44, 55, 66]]
RESPONSES = [[5, 6, 7, 1], [9, 1], [12, 1], [4, 4, 4, 4, 1], [11], [7, 8, 1]]


@pytest.fixture(autouse=True)
def notices(monkeypatch):
    monkeypatch.setattr(capabilities, "_noticed", set())


@pytest.fixture
def hybrid():
    """A recurrent layer and one of attention."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_key_heads": 2}
    linear = {"linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["linear_attention", "full_attention"]
    config = Qwen3_5TextConfig(
        vocab_size=320, layer_types=kinds, initializer_range=0.3, **shape, **heads, **linear
    )
    return Qwen3_5ForCausalLM(config).eval().requires_grad_(False)


def with_large_activations(decoder, factor=4000):
    decoder.get_input_embeddings().weight.data[:, LARGE] *= factor
    return decoder


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(("name", "window"), MODELS)
def test_a_right_model_packs(make_model, name, window, is_large, dtype):
    decoder = decoder_of(make_model(name, window))
    if is_large:
        decoder = with_large_activations(decoder)
    found = DecoderRunner(decoder.to(dtype)).capabilities
    assert found.packs, found.reason
    assert found.prunes


def wrong_scale(monkeypatch, _):
    attend = segments.attend
    monkeypatch.setattr(
        segments,
        "attend",
        lambda qkv, batch, scoring, root: attend(
            qkv, batch, Scoring(1.2 * scoring.scale_for(qkv[0])), root
        ),
    )


def wrong_merge(monkeypatch, _):
    merge = segments.merge_attention_states
    monkeypatch.setattr(
        segments,
        "merge_attention_states",
        lambda one, other: merge(one, other._replace(lse=other.lse + 1)),
    )


def missing_mask(monkeypatch, _):
    monkeypatch.setattr(segments, "is_supported", lambda *_: False)
    attend = segments.attend_masked
    monkeypatch.setattr(
        segments,
        "attend_masked",
        lambda qkv, mask, scoring: attend(qkv, all_seen(*qkv[:2]), scoring),
    )


def all_seen(query, key):
    return torch.ones(len(query), len(key), dtype=torch.bool)


def blind_to_the_first(monkeypatch, _):
    monkeypatch.setattr(segments, "is_supported", lambda *_: False)
    mask_of = PackedBatch.attention_mask

    def fewer(self, before, own, window):
        found = mask_of(self, before, own, window)
        if before:
            found = found.clone()
            found[:, 0] = False
        return found

    monkeypatch.setattr(PackedBatch, "attention_mask", fewer)


def changed(states, count):
    """Move each number up or down by some times the last bit."""
    signs = torch.randint(0, 2, states.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return states * (1 + count * torch.finfo(states.dtype).eps * signs.to(states))


def off_by_little(_, decoder):
    """Rows of more than the longest text, as packed ones are, are a little off."""
    for layer in decoder.layers:
        layer.register_forward_hook(
            lambda _, __, states: changed(states, 12) if states.shape[1] > 7 else states
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(
    "fault", [wrong_scale, wrong_merge, missing_mask, blind_to_the_first, off_by_little]
)
def test_a_wrong_way_is_found_out(make_model, monkeypatch, fault, is_large, dtype):
    decoder = decoder_of(make_model("llama"))
    if is_large:
        decoder = with_large_activations(decoder, 30)  # so that the others still count
    decoder = decoder.to(dtype)
    fault(monkeypatch, decoder)
    with pytest.warns(UserWarning, match=r"its states are off by .* times its rounding"):
        assert not DecoderRunner(decoder).capabilities.packs


@pytest.mark.parametrize("dtype", TYPES)
def test_a_window_that_is_ignored_is_found_out(make_model, monkeypatch, dtype):
    mask_of = PackedBatch.attention_mask
    monkeypatch.setattr(
        PackedBatch, "attention_mask", lambda self, before, own, _: mask_of(self, before, own, None)
    )
    decoder = decoder_of(make_model("mistral", 4)).to(dtype)
    with pytest.warns(UserWarning, match="times its rounding"):
        assert not DecoderRunner(decoder).capabilities.packs


@pytest.mark.parametrize("dtype", TYPES)
def test_decode_steps_that_are_off_by_little_are_found_out(make_model, dtype):
    decoder = decoder_of(make_model("llama")).to(dtype)
    for layer in decoder.layers:
        layer.register_forward_hook(
            lambda _, __, states: changed(states, 12) if states.shape[1] == 1 else states
        )
    found = DecoderRunner(decoder).capabilities
    assert found.packs
    assert not found.decodes


def test_noise_is_measured_in_each_dimension():
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(20, 8, generator=generator) * torch.tensor([1e4, *[1.0] * 7])
    noise = 1e-6 * exact.abs().mean(0) * torch.randn(20, 8, generator=generator)
    measure = Noise(exact, exact + noise)
    assert measure.error_of(exact - noise) == pytest.approx(1, rel=1e-3)
    assert measure.error_of(exact + 5e-5) > 10  # far below the last bit of the large dimension
    assert measure.error_of(exact.clone().fill_(torch.nan)) == float("inf")


def test_without_any_noise_the_last_bit_counts():
    exact = torch.linspace(1, 2, 12).view(6, 2)
    measure = Noise(exact, exact)
    assert measure.error_of(exact * (1 + 2**-23)) <= FACTOR
    assert measure.error_of(exact * (1 + 2**-18)) > FACTOR


def test_noise_as_large_as_the_results_tells_nothing():
    exact = torch.randn(20, 4)
    with pytest.raises(ValueError, match="as much as texts differ"):
        Noise(exact, torch.randn(20, 4))
    with pytest.raises(ValueError, match="as much as texts differ"):
        Noise(exact, exact * torch.nan)


def test_equal_results_need_no_noise():
    exact = torch.ones(3, 2)  # of which none could be measured
    assert error_in_noise(exact, exact.clone(), lambda: exact, nn.Module()) == 0


def test_a_recurrent_layer_is_padded_nowhere_but_behind_its_text(hybrid):
    with pytest.warns(UserWarning, match="layers of type linear_attention"):
        found = DecoderRunner(decoder_of(hybrid)).capabilities
    assert found[:3] == (False, False, False)
    assert found.caches
    assert found.pads


@pytest.mark.filterwarnings("ignore:Qwen3_5")
def test_states_of_a_hybrid_are_those_of_each_text_alone_and_train(hybrid):
    stack = DecoderRunner(decoder_of(hybrid).requires_grad_(True))
    batch = assemble(PROMPTS, RESPONSES, pad=1)
    lasts = batch.places(batch.lengths.tolist())
    states = hidden_states(stack, batch, None, lasts)
    for n, response in enumerate(RESPONSES):
        ids = torch.tensor([[*PROMPTS[n // 2], *response]])
        expected = stack.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(states[n], expected, rtol=0, atol=1e-4)
    states.sum().backward()


def test_other_layers_with_a_state_are_told_by_their_class(make_model):
    decoder = decoder_of(make_model("llama"))
    decoder._is_stateful = True
    with pytest.warns(UserWarning, match="layers with a state of their own"):
        found = DecoderRunner(decoder).capabilities
    assert not found.packs


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_fault_of_the_gpu_is_none_of_the_architecture(make_model, monkeypatch, kind):
    def fail(*args, **options):
        raise kind("CUDA error: no memory")

    monkeypatch.setattr(DecoderRunner, "packed_forward", fail)
    with pytest.raises(kind, match="no memory"):
        DecoderRunner(decoder_of(make_model("llama"))).capabilities  # noqa: B018


def test_what_is_tried_is_the_type_that_is_computed_in(make_model, monkeypatch):
    runner, types = DecoderRunner(decoder_of(make_model("llama"))), set()
    attend = segments.attend
    monkeypatch.setattr(
        segments, "attend", lambda qkv, *rest: types.add(qkv[0].dtype) or attend(qkv, *rest)
    )
    weights = [(weight, weight.dtype) for weight in runner.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        assert runner.capabilities.packs
        assert types == {torch.bfloat16}
    assert all(weight.dtype == before for weight, before in weights)
    types.clear()
    assert runner.capabilities.packs
    assert types == {torch.float32}
    types.clear()
    with torch.autocast("cpu", torch.bfloat16):
        ids = torch.arange(6)
        runner.packed_forward(ids, pack_segments([[Segment(6)]], ids.device))
    assert types == {torch.bfloat16}
    runner.computes_in = torch.float32  # as where weights are divided
    with torch.autocast("cpu", torch.bfloat16):
        types.clear()
        assert runner.capabilities.packs
    assert not types
