import random

import pytest

from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.calls import ChoiceRequest, Decoding, GenerateRequest, Question

PREAMBLE = "Say which is the better cat. " * 3
POSTS = ["the dog sat on the mat and the cat sat on the dog. ", "a cat, alone at sea, twice over. "]
TEXTS = [f"{PREAMBLE}POST: {post}1 - {a} 2 - {b} TL;DR:" for post in POSTS for a, b in ("xy", "yx")]
TEXTS += [TEXTS[0] + " since it is", "TL;DR:"]


def answers(backend, calls):
    replies = {}
    backend.answer(calls, replies.__setitem__)
    return [replies[n] for n in range(len(calls))]


def endless(backend):
    """Make a random model write on: it would else end after a token or two by chance."""
    vars(backend.model)["ends"] = frozenset()
    return backend


@pytest.fixture
def build(folders):
    def build(name, **options):
        return LocalBackend(folders[name], **options)

    return build


def plain_greedy(plain, text, count):
    """Likeliest tokens until an end, as text."""
    before = plain.tokenizer(text).input_ids
    written = plain.greedy(before, count)
    ended = 1 in written
    written = written[: written.index(1)] if ended else written
    return plain.tokenizer.decode(written), ended


@pytest.mark.parametrize("batch_tokens", [1, 4096])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "cohere"])
def test_greedy_text_equals_one_by_one(build, plain_model, name, batch_tokens):
    plain = plain_model(name)
    calls = [GenerateRequest(Question(text), Decoding(max_tokens=9)) for text in TEXTS]
    backend = build(name, batch_tokens=batch_tokens)
    for call, reply in zip(calls, answers(backend, calls), strict=True):
        text, ended = plain_greedy(plain, call.question.text, 9)
        assert (reply.text, reply.finished, reply.failure) == (text, ended, None)
        assert reply.read == len(plain.tokenizer(call.question.text).input_ids)
        assert 1 <= reply.written <= 9


@pytest.mark.filterwarnings("ignore:.*run the plain way")
def test_an_encoder_decoder_writes_after_its_opening(build, plain_model):
    plain = plain_model("t5")
    calls = [GenerateRequest(Question(text, "TL;DR:"), Decoding(max_tokens=6)) for text in TEXTS]
    for call, reply in zip(calls, answers(build("t5"), calls), strict=True):
        source = plain.tokenizer(call.question.text, return_tensors="pt").input_ids
        assistant_prefix = plain.tokenizer("TL;DR:", add_special_tokens=False).input_ids
        written = []
        while len(written) < 6 and written[-1:] != [1]:
            written.append(plain.next_token([*assistant_prefix, *written], source).argmax().item())
        ended = written[-1] == 1
        assert reply.finished == ended
        assert reply.text == plain.tokenizer.decode(written[:-1] if ended else written)


def test_samples_depend_on_seed_question_and_number_alone(build):
    calls = [
        GenerateRequest(Question(text), Decoding(12, 1.5, top_k=40, seed=seed), sample)
        for text in TEXTS
        for seed in (0, 1)
        for sample in range(3)
    ]
    whole = answers(build("llama"), calls)
    shuffled = list(range(len(calls)))
    random.Random(5).shuffle(shuffled)
    small = build("llama", batch_tokens=100)
    for part in (shuffled[:7], shuffled[7:]):
        for n, reply in zip(part, answers(small, [calls[n] for n in part]), strict=True):
            assert (reply.text, reply.finished) == (whole[n].text, whole[n].finished)
    assert len({reply.text for reply in whole}) > len(calls) // 2


def test_only_the_top_k_are_drawn(build, plain_model):
    plain = plain_model("llama")
    calls = [GenerateRequest(Question("TL;DR:"), Decoding(1, 2.0, top_k=3), n) for n in range(60)]
    drawn = {reply.text for reply in answers(build("llama"), calls)}
    likeliest = plain.next_token(plain.tokenizer("TL;DR:").input_ids).topk(3).indices.tolist()
    assert drawn == {plain.tokenizer.decode([token]) for token in likeliest}


def test_frequencies_of_the_first_token_are_the_model_s(build, plain_model):
    # 2000 draws: a share of p has a standard deviation of at most 0.5 / sqrt(2000) = 0.0112.
    plain = plain_model("llama")
    calls = [GenerateRequest(Question("the cat"), Decoding(1, 1.0), n) for n in range(2000)]
    texts = [reply.text for reply in answers(build("llama"), calls)]
    chances = {}
    for token, chance in enumerate(plain.next_token(plain.tokenizer("the cat").input_ids).exp()):
        text = plain.tokenizer.decode([token], skip_special_tokens=True)  # bytes may share one
        chances[text] = chances.get(text, 0.0) + chance.item()
    for text, chance in chances.items():
        assert texts.count(text) / len(texts) == pytest.approx(chance, abs=5 * 0.0112)
    assert max(chances.values()) > 10 * 0.0112


def test_an_answer_ends_at_a_stop_string_that_is_no_part_of_it(build):
    question = Question(TEXTS[0])
    (free,) = answers(endless(build("llama")), [GenerateRequest(question, Decoding(20))])
    assert not free.finished
    stop = free.text[6:9]
    assert stop
    decoding = Decoding(20, stop=("no such string", stop))
    (reply,) = answers(endless(build("llama")), [GenerateRequest(question, decoding)])
    assert reply.finished
    assert reply.text == free.text[: free.text.index(stop)]
    assert reply.written < free.written


def test_the_context_limits_an_answer(build):
    backend = endless(build("llama", max_tokens=20))
    size = len(backend.model.tokenizer("TL;DR:").input_ids)
    short, long = answers(
        backend,
        [
            GenerateRequest(Question("TL;DR:"), Decoding(50)),
            GenerateRequest(Question("the cat " * 40), Decoding(50)),
        ],
    )
    assert (short.written, short.finished) == (20 - size, False)
    assert long.failure == "too_long"


def test_a_text_may_be_asked_again_as_it_was_written(build):
    # The second call of chain of thought reads on from the first one's question and answer.
    backend = build("llama")
    question = Question(TEXTS[0])
    (first,) = answers(backend, [GenerateRequest(question, Decoding(8))])
    calls = [
        ChoiceRequest(Question(TEXTS[0] + first.text + " TL;DR:"), (" 1", " 2")),
        GenerateRequest(question, Decoding(8)),
    ]
    label, again = answers(backend, calls)
    assert label.failure is None
    assert again.text == first.text
