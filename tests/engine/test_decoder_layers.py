import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, Gemma2PreTrainedModel

from rlaif_pl.engine.decoder_layers import decoder_of, layers_of
from rlaif_pl.engine.runner import DecoderRunner, split
from rlaif_pl.models import BackboneOptions
from rlaif_pl.models.backbone import load_backbone, loaded_backbone
from rlaif_pl.models.suited import LoadedModel

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
REAL = torch.ones_like(IDS, dtype=torch.bool)
PLACES = torch.arange(8)[None]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma3", "mistral"])
@pytest.mark.parametrize("trunk_layers", [1, 3])
def test_trunk_then_top_is_the_whole_model(make_model, name, trunk_layers):
    model = make_model(name)
    expected = model.model(input_ids=IDS, use_cache=False).last_hidden_state
    trunk, top = split(decoder_of(model), trunk_layers)
    assert trunk.num_layers == trunk_layers
    assert top.num_layers == 4 - trunk_layers
    hidden = top(trunk(IDS, REAL, PLACES), REAL, PLACES)
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)


def test_an_architecture_that_cannot_be_cut_is_refused(make_model):
    # GPT-2 adds position embeddings before its first layer, so a top would add them twice.
    with pytest.raises(ValueError, match="trunk_layers=0"):
        split(decoder_of(make_model("gpt2")), 2)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_no_trunk_leaves_the_decoder_whole(make_model, name):
    model = make_model(name)
    expected = decoder_of(model)(input_ids=IDS).last_hidden_state
    trunk, top = split(decoder_of(model), 0)
    assert trunk is None
    torch.testing.assert_close(top(IDS, REAL, PLACES), expected)


@pytest.mark.parametrize("trunk_layers", [-1, 4, 9])
def test_trunk_layers_out_of_range_are_refused(make_model, trunk_layers):
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        split(decoder_of(make_model("llama")), trunk_layers)


def test_the_trunk_is_frozen_and_shares_the_models_weights(make_model):
    model = make_model("llama").requires_grad_(True)
    first = model.model.layers[0].mlp.up_proj.weight
    last = model.model.layers[3].mlp.up_proj.weight
    trunk, top = split(decoder_of(model), 2)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert layers_of(trunk.decoder)[0].mlp.up_proj.weight is first
    assert layers_of(top.decoder)[1].mlp.up_proj.weight is last
    assert top.decoder.embed_tokens is None


def test_a_cache_continues_where_it_stopped(make_model):
    stack = DecoderRunner(decoder_of(make_model("llama")))
    whole = stack(IDS, REAL, PLACES)
    cache = DynamicCache(config=stack.decoder.config)
    stack(IDS[:, :5], REAL[:, :5], PLACES[:, :5], cache)
    rest = stack(IDS[:, 5:], REAL, PLACES[:, 5:], cache)
    torch.testing.assert_close(rest, whole[:, 5:], rtol=1e-4, atol=1e-5)


def test_layers_under_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match="'layers' or 'h'"):
        layers_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("way", ["name", "memory", "engine"])
def test_a_model_that_caps_scores_never_runs_without_its_cap(
    make_model, tiny_model_folder, tmp_path, way, monkeypatch
):
    """transformers up to 5.17 gives Gemma 2 sdpa, which leaves the cap out without a word."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    model, tokenizer = make_model("gemma2"), AutoTokenizer.from_pretrained(tiny_model_folder)
    for holder in (model.config, *(layer.self_attn for layer in model.model.layers)):
        holder.attn_logit_softcapping = 0.5
    model.config._attn_implementation = "eager"
    capped = model(IDS).logits
    model.config._attn_implementation = "sdpa"
    if way == "name":
        for each in (model, tokenizer):
            each.save_pretrained(tmp_path)
        model = load_backbone(BackboneOptions(str(tmp_path))).model
    elif way == "memory":
        model = loaded_backbone(LoadedModel(model, tokenizer)).model
    else:
        assert DecoderRunner(decoder_of(model)).capabilities.packs
    torch.testing.assert_close(model(IDS).logits, capped, rtol=0, atol=1e-5)
