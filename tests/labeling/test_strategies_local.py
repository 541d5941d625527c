"""Every strategy on a real back end, against forwards of its own."""

import json
import math
import shutil

import pytest
from scipy.special import expit, softmax

from rlaif_pl.labeling import (
    ChainOfThought,
    ConstitutionLabeler,
    EnsembleLabeler,
    FreeFormLabeler,
    LabelerReward,
    PairwiseLabeler,
    ScoreLabeler,
)
from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.outcome import VerdictOptions

# Random models give two options out of 320 tokens less than they must have in earnest.
ANY_MASS = VerdictOptions(min_option_mass=0.0)


@pytest.fixture(scope="session")
def roomy(folders, tmp_path_factory):
    """Folder of a tiny model with room for the packaged prompts."""
    folder = tmp_path_factory.mktemp("roomy") / "llama"
    shutil.copytree(folders["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 16384
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def short(tmp_path):
    """A short prompt file, so that tiny models read little."""
    path = tmp_path / "short.txt"
    path.write_text(
        "asks: better\n--- sample\nText - {prompt}\n1 - {first}\n2 - {second}\n"
        "--- reasoning\nWhy?\nBecause\n--- ending\nPreferred="
    )
    return str(path)


def text_of(pair, swap=False):
    first, second = (pair.second, pair.first) if swap else (pair.first, pair.second)
    return f"Text - {pair.prompt.strip()}\n1 - {first}\n2 - {second}\n\n"


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_zero_shot_equals_plain_forwards(folders, pairs, short, plain_model, name, batch_tokens):
    plain = plain_model(name)
    backend = LocalBackend(folders[name], batch_tokens=batch_tokens)
    labeler = PairwiseLabeler(backend, prompt=short, verdict=ANY_MASS)
    for pair, judged in zip(pairs, labeler.label(pairs), strict=True):
        a, b = (
            [plain.option(text_of(pair, swap) + "Preferred=", digit) for digit in "12"]
            for swap in (False, True)
        )
        p_ab, p_ba = expit(a[0] - a[1]), expit(b[1] - b[0])
        assert judged.p_first == pytest.approx((p_ab + p_ba) / 2, abs=1e-4)
        note = judged.provenance
        assert note.position_gap == pytest.approx(abs(p_ab - p_ba), abs=1e-4)
        assert note.same_slot == ((a[0] > a[1]) == (b[0] > b[1]))
        assert note.slot == ((1 if a[0] > a[1] else 2) if note.same_slot else None)
        outside = 1 - sum(math.exp(x) for x in (*a, *b)) / 2
        assert note.off_option_mass == pytest.approx(outside, abs=1e-4)
        assert note.tokens > 0


def test_chain_of_thought_equals_plain_decoding_and_forwards(folders, pairs, short, plain_model):
    plain, pair = plain_model("llama"), pairs[1]
    labeler = PairwiseLabeler(
        LocalBackend(folders["llama"]),
        prompt=short,
        cot=ChainOfThought(max_tokens=6),
        verdict=ANY_MASS,
    )
    shares = []
    for swap in (False, True):
        question = text_of(pair, swap) + "Why?\nBecause"
        ids = plain.tokenizer(question).input_ids
        end = plain.tokenizer.eos_token_id
        written = plain.greedy(ids, 6)
        written = written[: written.index(end)] if end in written else written
        said = plain.tokenizer.decode(written).rstrip()
        space = "" if said[:1].isspace() else " "
        whole = f"{question}{space}{said}\n\nPreferred="
        one, two = (plain.option(whole, digit) for digit in "12")
        shares.append(expit(two - one) if swap else expit(one - two))
    (judged,) = labeler.label([pair])
    assert judged.provenance.failure is None
    assert judged.p_first == pytest.approx(sum(shares) / 2, abs=1e-4)


def test_grades_equal_plain_forwards(folders, plain_model, tmp_path):
    path = tmp_path / "scale.txt"
    options = ", ".join(f'" {grade}"' for grade in range(1, 11))
    path.write_text(
        f"asks: better\noptions: [{options}]\n--- sample\n{{prompt}}\n{{response}}\n--- ending\nScore:"
    )
    plain = plain_model("llama")
    logs = [plain.option("the cat\na dog\n\nScore:", f" {grade}") for grade in range(1, 11)]
    # " 10" is what goes on from " 1" with "0": that part of " 1" is not the grade 1.
    assert len(plain.tokenizer(" 10").input_ids) > len(plain.tokenizer(" 1").input_ids)
    logs[0] = math.log(math.exp(logs[0]) - math.exp(logs[9]))
    mean = sum(share * (grade - 5.5) / 4.5 for grade, share in enumerate(softmax(logs), 1))
    labeler = ScoreLabeler(LocalBackend(folders["llama"]), prompt=str(path), verdict=ANY_MASS)
    (value,) = labeler.score(["the cat"], ["a dog"])
    assert value == pytest.approx(mean, abs=1e-4)


def test_a_long_question_fails_whole_and_spares_the_others(folders, pairs, short):
    longest = len(LocalBackend(folders["llama"]).model.tokenizer(text_of(pairs[1])).input_ids)
    backend = LocalBackend(folders["llama"], max_tokens=longest + 20)
    judged = PairwiseLabeler(backend, prompt=short, verdict=ANY_MASS).label(pairs)
    assert [row.provenance.failure for row in judged] == ["too_long", None, "too_long"]
    assert (judged[0].p_first, judged[0].source) == (None, None)


WAYS = {
    "zero shot": lambda b: PairwiseLabeler(b, verdict=ANY_MASS, preamble="base"),
    "chat": lambda b: PairwiseLabeler(b, verdict=ANY_MASS, chat_template=True),
    "few shot": lambda b: PairwiseLabeler(b, verdict=ANY_MASS, task="harmless", shots=2),
    "self-consistency": lambda b: PairwiseLabeler(
        b,
        preamble="base",
        cot=ChainOfThought(samples=3, temperature=0.7, top_k=40, max_tokens=5),
        shots=1,
        verdict=ANY_MASS,
    ),
    "score": lambda b: ScoreLabeler(b, task="helpful", verdict=ANY_MASS),
    "constitution": lambda b: ConstitutionLabeler(
        b, verdict=ANY_MASS, cot=ChainOfThought(max_tokens=5)
    ),
    "ensemble": lambda b: EnsembleLabeler(
        [
            PairwiseLabeler(b, verdict=ANY_MASS, preamble="base"),
            ScoreLabeler(b, verdict=ANY_MASS),
        ]
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_packaged_prompts_give_labels_that_swap(roomy, pair, way):
    turned = pair.__class__(pair.prompt, pair.second, pair.first, pair.group)
    labeler = WAYS[way](LocalBackend(roomy, max_tokens=16384))
    one, other = labeler.label([pair, turned])
    assert one.provenance.failure is None
    assert one.p_first != 0.5
    assert one.p_first + other.p_first == pytest.approx(1.0, abs=1e-9)
    assert one.provenance.tokens == other.provenance.tokens > 0
    (again,) = WAYS[way](LocalBackend(roomy, max_tokens=16384)).label([pair])
    assert again.p_first == pytest.approx(one.p_first, abs=1e-5)  # drawing is seeded


def test_a_written_answer_of_a_random_model_is_no_verdict(roomy, pair):
    (judged,) = FreeFormLabeler(LocalBackend(roomy, max_tokens=16384), max_answer_tokens=8).label(
        [pair]
    )
    assert judged.p_first is None
    assert judged.provenance.failure in ("malformed", "empty")


def test_the_grade_is_a_reward(roomy):
    reward = LabelerReward(ScoreLabeler(LocalBackend(roomy, max_tokens=16384), verdict=ANY_MASS))
    scores = reward.score(["the cat"] * 2, ["a cat", "a dog sat"])
    assert scores.shape == (2,)
    assert (scores.abs() <= 1).all()
    assert scores[0] != scores[1]
