"""Tokenizers stay readable for older programs: the class and fields of the folder they came in."""

import json

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from rlaif_pl.models.tokenizer_files import portable, save_tokenizer, source_files

TEXTS = ["the cat <tool> sat</s>", "POST: <s>a dog"]
AS_OLD = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "</s>",
    "bos_token": {"content": "<s>", "lstrip": False, "special": True, "__type": "AddedToken"},
    "chat_template": "{{ messages[0]['content'] }}",
    "extra_special_tokens": {"tool_token": "<tool>"},
    "added_tokens_decoder": {"1": {"content": "</s>", "special": True}},
    "clean_up_tokenization_spaces": False,
}


def read(folder, name="tokenizer_config.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture
def old(tokenizer, tmp_path):
    """A tokenizer's folder as transformers 4 writes it."""
    folder = tmp_path / "old"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<tool>"]})
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(AS_OLD))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    (folder / "tokenizer.model").write_bytes(b"for converters")
    (folder / "model.safetensors").write_bytes(b"no tokenizer")
    return folder


def test_an_unchanged_tokenizer_is_written_as_it_came(old, tmp_path):
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "out", AutoTokenizer.from_pretrained(old))
    assert read(tmp_path / "out") == AS_OLD
    names = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "tokenizer.model",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"tokenizer_config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (old / name).read_bytes()


def test_only_what_changed_is_changed(old, tmp_path):
    (tmp_path / "out").mkdir()
    changed = AutoTokenizer.from_pretrained(old)
    changed.add_special_tokens({"pad_token": "<fill>"})
    save_tokenizer(tmp_path / "out", changed)
    number = changed.pad_token_id
    settings = read(tmp_path / "out")
    added = settings.pop("added_tokens_decoder")
    assert settings == {k: v for k, v in AS_OLD.items() if k != "added_tokens_decoder"} | {
        "pad_token": "<fill>"
    }
    assert added[str(number)]["content"] == "<fill>"
    map_ = {"eos_token": "</s>", "pad_token": "<fill>"}
    assert read(tmp_path / "out", "special_tokens_map.json") == map_
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.pad_token_id == number == len(changed) - 1
    assert again("<fill>a").input_ids == changed("<fill>a").input_ids
    assert again.chat_template == AS_OLD["chat_template"]


def test_a_chat_template_set_in_memory_is_written(old, tmp_path):
    changed = AutoTokenizer.from_pretrained(old)
    changed.chat_template = "{{ messages[-1]['content'] }}"
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "out", changed)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == changed.chat_template
    assert again(TEXTS).input_ids == changed(TEXTS).input_ids


def test_what_goes_around_a_text_is_written_as_it_is_now(old, tmp_path):
    before, changed = AutoTokenizer.from_pretrained(old), AutoTokenizer.from_pretrained(old)
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", changed.bos_token_id)]
    )
    assert changed(TEXTS).input_ids != before(TEXTS).input_ids
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "out", changed)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXTS).input_ids == changed(TEXTS).input_ids
    assert again.chat_template == AS_OLD["chat_template"]


def test_a_tokenizer_made_here_is_written_for_old_and_new(tokenizer, tmp_path):
    tokenizer.add_special_tokens({"extra_special_tokens": ["<tool>"]})
    tokenizer.chat_template = AS_OLD["chat_template"]
    save_tokenizer(tmp_path, tokenizer)
    settings = read(tmp_path)
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<tool>"]
    assert "extra_special_tokens" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids
    assert again.extra_special_tokens == ["<tool>"]
    assert again.chat_template == tokenizer.chat_template
    assert source_files(tokenizer) == {}


def test_a_folder_of_transformers_5_becomes_readable_for_4(tokenizer, tmp_path):
    tokenizer.add_special_tokens({"extra_special_tokens": ["<tool>"]})
    tokenizer.save_pretrained(tmp_path / "new")
    assert read(tmp_path / "new")["tokenizer_class"] == "TokenizersBackend"  # why portable is there
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "out", AutoTokenizer.from_pretrained(tmp_path / "new"))
    assert read(tmp_path / "out")["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def test_named_tokens_of_a_model_stay_a_mapping():
    new = {"model_specific_special_tokens": {"tool_token": "<tool>"}, "is_local": True}
    assert portable(new) == {"extra_special_tokens": {"tool_token": "<tool>"}}


def test_the_source_may_be_gone_by_then(old, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(old)
    (old / "tokenizer_config.json").unlink()
    (old / "tokenizer.json").unlink()
    (tmp_path / "out").mkdir()
    (old / "tokenizer.model").unlink()
    (old / "special_tokens_map.json").unlink()
    save_tokenizer(tmp_path / "out", tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def test_a_folder_of_vocabulary_alone_is_written_whole(tokenizer, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    tokenizer.backend_tokenizer.model.save(str(tmp_path / "bare"))
    bare = AutoTokenizer.from_pretrained(tmp_path / "bare")
    assert set(source_files(bare)) == {"vocab.json", "merges.txt"}
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "out", bare)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXTS).input_ids == bare(TEXTS).input_ids
    assert again.eos_token == bare.eos_token
