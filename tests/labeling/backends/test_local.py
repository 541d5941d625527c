import math
import warnings

import pytest

from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling.backends import LocalBackend, as_backend
from rlaif_pl.labeling.backends.local_model import PlainRunner
from rlaif_pl.labeling.calls import Backend, ChoiceRequest, LoglikelihoodRequest, Question

PREAMBLE = "Say which is the better cat. " * 3
POSTS = ["the dog sat on the mat and the cat sat on the dog. ", "a cat, alone at sea, twice over. "]
ORDERS = [
    f"{PREAMBLE}POST: {post}1 - {a} 2 - {b} TL;DR:" for post in POSTS for a, b in ("xy", "yx")
]
RATIONALES = [f"{ORDERS[0]} since {why}. TL;DR:" for why in ("it is", "the dog sat", "")]
QUESTIONS = [*ORDERS, *RATIONALES, "TL;DR:"]


def answers(backend, calls):
    replies = {}
    backend.answer(calls, replies.__setitem__)
    return [replies[n] for n in range(len(calls))]


@pytest.fixture(scope="module")
def build(folders):
    made = {}

    def build(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[key] = LocalBackend(folders[name], **options)
                _ = made[key].runner
        return made[key]

    return build


@pytest.mark.parametrize("batch_tokens", [1, 300, 4096])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "cohere"])
def test_choices_equal_whole_strings_one_by_one(build, plain_model, name, batch_tokens):
    plain = plain_model(name)
    calls = [ChoiceRequest(Question(text), (" 1", " 2", " the cat")) for text in QUESTIONS]
    for call, reply in zip(
        calls, answers(build(name, batch_tokens=batch_tokens), calls), strict=True
    ):
        expected = [plain.option(call.question.text, option) for option in call.options]
        assert reply.failure is None
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)
        assert reply.read == len(plain.tokenizer(call.question.text).input_ids)


@pytest.mark.parametrize("batch_tokens", [1, 300, 4096])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "cohere"])
def test_scores_equal_one_by_one(build, plain_model, name, batch_tokens):
    plain = plain_model(name)
    calls = [
        LoglikelihoodRequest(text, target)
        for text in (*ORDERS, "TL;DR:")
        for target in (" the dog", POSTS[0])
    ]
    for call, reply in zip(
        calls, answers(build(name, batch_tokens=batch_tokens), calls), strict=True
    ):
        before = plain.tokenizer(call.context).input_ids
        target = plain.tokenizer(call.target, add_special_tokens=False).input_ids
        assert reply.logprobs == pytest.approx(plain.after(before, target), abs=1e-4)
        assert reply.read == len(before) + len(target)


def test_an_encoder_decoder_is_asked_through_its_decoder(folders, plain_model):
    plain = plain_model("t5")
    backend = LocalBackend(folders["t5"], batch_tokens=100)
    calls = [
        ChoiceRequest(Question(text, "TL;DR:"), (" 1", " 2", " the cat")) for text in QUESTIONS
    ]
    calls += [LoglikelihoodRequest(text, " the dog sat") for text in ORDERS]
    with pytest.warns(UserWarning, match="run the plain way"):
        replies = answers(backend, calls)
    for call, reply in zip(calls, replies, strict=True):
        text = call.question.text if isinstance(call, ChoiceRequest) else call.context
        source = plain.tokenizer(text, return_tensors="pt").input_ids
        ids = {
            word: plain.tokenizer(word, add_special_tokens=False).input_ids
            for word in ("TL;DR:", " 1", " 2", " the cat", " the dog sat")
        }
        if isinstance(call, LoglikelihoodRequest):
            expected = plain.after([], ids[call.target], source)
        else:
            expected = [
                math.fsum(plain.after(ids["TL;DR:"], ids[option], source))
                for option in call.options
            ]
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_answer_10_counts_for_10_alone(build, plain_model):
    # Bytes: "1" begins "10" and "100", "10" begins "100"; what is left is by subtraction.
    plain = plain_model("llama")
    options = ("1", "2", "10", "100")
    (reply,) = answers(build("llama"), [ChoiceRequest(Question("TL;DR: "), options)])
    begins = {option: math.exp(plain.option("TL;DR: ", option)) for option in options}
    expected = [
        begins["1"] - begins["10"],
        begins["2"],
        begins["10"] - begins["100"],
        begins["100"],
    ]
    assert [math.exp(value) for value in reply.logprobs] == pytest.approx(expected, rel=1e-4)


def test_options_that_begin_alike_are_judged_whole(build, plain_model):
    plain = plain_model("llama")
    (reply,) = answers(build("llama"), [ChoiceRequest(Question("the cat"), (" (A)", " (B)"))])
    expected = [plain.option("the cat", option) for option in (" (A)", " (B)")]
    assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_chat_question_goes_through_the_template_and_its_opening_opens_the_answer(
    build, plain_model
):
    plain = plain_model("llama")
    (reply,) = answers(
        build("llama"), [ChoiceRequest(Question("a cat?", "TL;DR:", chat=True), (" a", " b"))]
    )
    text = "<s>user\na cat?</s><s>assistant\nTL;DR:"
    expected = [plain.option(text, option) for option in (" a", " b")]
    assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_prompt_read_before_is_not_read_again(folders, monkeypatch):
    backend = LocalBackend(folders["llama"], batch_tokens=120)
    calls = [ChoiceRequest(Question(text), (" 1", " 2")) for text in ORDERS]
    first = answers(backend, calls)
    assert backend.runner._roots
    computed = []
    decoder = type(backend.model.top.decoder)
    run = decoder.forward

    def counted(self, input_ids, **rest):
        computed.append(input_ids.numel())
        return run(self, input_ids, **rest)

    monkeypatch.setattr(decoder, "forward", counted)
    assert [reply.logprobs for reply in answers(backend, calls)] == [
        pytest.approx(reply.logprobs, abs=1e-5) for reply in first
    ]
    whole = sum(len(backend.model.tokenizer(text).input_ids) for text in ORDERS)
    assert 0 < sum(computed) < whole / 2


def test_what_several_pairs_begin_with_is_kept_for_later_calls(folders):
    backend = LocalBackend(folders["llama"])
    answers(backend, [ChoiceRequest(Question(text), (" 1", " 2")) for text in ORDERS[:2]])
    assert not backend.runner._roots  # the post of one pair
    answers(backend, [ChoiceRequest(Question(text), (" 1", " 2")) for text in ORDERS])
    (root,) = backend.runner._roots
    assert backend.model.tokenizer.decode(list(root)).startswith(PREAMBLE)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gemma2"])
def test_known_architectures_are_run_by_the_engine(build, name):
    assert isinstance(build(name).runner, PrefixTreeRunner)


def test_unreadable_texts_fail_with_a_reason_and_spare_the_others(folders):
    backend = LocalBackend(folders["llama"], max_tokens=60)
    calls = [
        ChoiceRequest(Question("the cat " * 80), ("1", "2")),
        ChoiceRequest(Question(""), ("1", "2")),
        LoglikelihoodRequest("TL;DR:", ""),
        LoglikelihoodRequest("the cat " * 80, "a"),
        LoglikelihoodRequest("", "a"),
        ChoiceRequest(Question("TL;DR:"), (" 1", " 2")),
    ]
    failures = ["too_long", "empty", "empty", "too_long", "empty", None]
    assert [reply.failure for reply in answers(backend, calls)] == failures


def test_the_model_s_own_context_holds_too(folders):
    backend = LocalBackend(folders["llama"], max_tokens=10_000)
    assert backend.limit == 512
    (reply,) = answers(backend, [LoglikelihoodRequest("the", " sea" * 400)])
    assert reply.failure == "too_long"


def test_what_is_no_number_is_a_failure(folders):
    backend = LocalBackend(folders["llama"])
    backend.model.backbone.model.model.norm.weight.data.fill_(math.nan)
    with pytest.warns(UserWarning, match="run the plain way"):
        replies = answers(
            backend,
            [ChoiceRequest(Question("TL;DR:"), ("1", "2")), LoglikelihoodRequest("a", " b")],
        )
    assert [reply.failure for reply in replies] == ["nonfinite", "nonfinite"]
    assert all(reply.logprobs == () for reply in replies)


def test_an_unknown_architecture_is_read_the_plain_way_with_one_notice(folders):
    backend = LocalBackend(folders["cohere"])
    with pytest.warns(UserWarning, match="run the plain way"):
        answers(backend, [LoglikelihoodRequest("TL;DR:", " a")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers(backend, [LoglikelihoodRequest("TL;DR:", " b")])
    assert isinstance(backend.runner, PlainRunner)


def test_replies_come_batch_by_batch(folders):
    backend = LocalBackend(folders["llama"], batch_tokens=150)
    kept = []

    def done(place, _):
        kept.append(place)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.answer([ChoiceRequest(Question(text), (" 1", " 2")) for text in ORDERS], done)
    assert len(kept) == 2


def test_the_fingerprint_names_what_can_change_a_reply(folders):
    options = [{}, {"num_layers": 1}, {"max_tokens": 100}, {"dtype": "bfloat16"}]
    prints = {LocalBackend(folders["llama"], **each).fingerprint for each in options}
    prints.add(LocalBackend(folders["gemma2"]).fingerprint)
    assert len(prints) == 5
    assert LocalBackend(folders["llama"], batch_tokens=7).fingerprint in prints


def test_it_is_a_back_end_and_loads_nothing_until_asked(folders):
    backend = as_backend(folders["llama"])
    assert isinstance(backend, LocalBackend)
    assert isinstance(backend, Backend)
    assert "backbone" not in vars(backend.model)
    assert as_backend(backend) is backend


def test_an_address_is_no_model():
    with pytest.raises(ValueError, match="needs the name of its model"):
        as_backend("http://localhost:8000/v1")


@pytest.mark.parametrize("option", ["batch_tokens", "max_tokens"])
def test_senseless_limits_are_refused(option):
    with pytest.raises(ValueError, match=option):
        LocalBackend("anything", **{option: 0})


def test_every_device_answers_as_the_cpu(build, folders, device):
    calls = [ChoiceRequest(Question(text), (" 1", " 2")) for text in QUESTIONS]
    backend = LocalBackend(folders["llama"], device=device.type)
    assert backend.model.device.type == device.type
    cpu = build("llama", device="cpu")
    for one, other in zip(answers(cpu, calls), answers(backend, calls), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
