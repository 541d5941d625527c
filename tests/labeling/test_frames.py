"""Likelihoods of responses are asked for as the policy writes them, where that is known."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.calls import LoglikelihoodRequest
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.likelihood_terms import DEFAULT, WeightedTerm, frame_of
from rlaif_pl.models import Policy
from rlaif_pl.text import Template
from rlaif_pl.types import Preference

OWN = Template("Q: {prompt}\n\nA:", "\n{response}")
TERMS = [WeightedTerm("likelihood"), WeightedTerm("pmi")]
TURNS = [
    {"role": "user", "content": "The cat."},
    {"role": "assistant", "content": "Where?"},
    {"role": "user", "content": "On the mat."},
]


class Server:
    """A back end that is not on this machine."""

    fingerprint = "server"

    def answer(self, calls, done):
        raise AssertionError(f"asked {calls}, {done}")


@pytest.fixture
def policy_folder(tiny_model_folder, tmp_path):
    policy = Policy.from_pretrained(tiny_model_folder, template=OWN)
    return str(policy.save_pretrained(tmp_path / "policy"))


def asked(labeler, prompt, response):
    return [call for _, term in labeler.terms for call in term.calls(prompt, response)]


def test_without_a_template_it_is_tldrs_and_named_as_before(tiny_model_folder):
    labeler = LikelihoodLabeler(str(tiny_model_folder), terms=TERMS)
    assert labeler.prompt_version == "likelihood-1+pmi-1"
    given = LoglikelihoodRequest("POST: a cat\n\nTL;DR:", " sat")
    assert asked(labeler, "a cat", "sat") == [given, given, LoglikelihoodRequest("TL;DR:", " sat")]
    assert frame_of(Server(), Template()) is DEFAULT


def test_a_policys_own_template_is_taken_or_the_one_given(policy_folder):
    expected = [
        LoglikelihoodRequest("Q: a cat\n\nA:", "\nsat"),
        LoglikelihoodRequest("Q: a cat\n\nA:", "\nsat"),
        LoglikelihoodRequest("A:", "\nsat"),
    ]
    stored = LikelihoodLabeler(policy_folder, terms=TERMS)
    given = LikelihoodLabeler(Server(), terms=TERMS, policy_template=OWN)
    assert asked(stored, "a cat", "sat") == asked(given, "a cat", "sat") == expected
    assert stored.prompt_version == given.prompt_version
    assert stored.prompt_version.startswith("likelihood-1-")
    bare = LikelihoodLabeler(Server(), terms=TERMS, policy_template=Template("{prompt}"))
    assert asked(bare, "a cat", "sat")[-1] == LoglikelihoodRequest("\n", " sat")
    words = LikelihoodLabeler(
        policy_folder, terms=[WeightedTerm("shared_information")], policy_template=OWN
    )
    assert asked(words, "a cat sat", "It sat") == [LoglikelihoodRequest("A:\nIt", " sat")]


def test_a_chat_models_turns_are_read(chat_model_folder):
    chat = Template(chat=True, max_prompt_words=2)
    labeler = LikelihoodLabeler(
        LocalBackend(str(chat_model_folder)), terms=TERMS[:1], policy_template=chat
    )
    pair = Preference("flat", "a cat sat", "a dog<|im_end|>", "g", messages=TURNS)
    tokenizer = AutoTokenizer.from_pretrained(chat_model_folder)
    model = AutoModelForCausalLM.from_pretrained(chat_model_folder)
    turns = [*TURNS[:2], {"role": "user", "content": "On the"}]
    context = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    target = tokenizer("a cat sat", add_special_tokens=False).input_ids
    with torch.no_grad():
        table = model(torch.tensor([[*context, *target]])).logits[0].log_softmax(-1)
    places = torch.arange(len(context) - 1, len(context) + len(target) - 1)
    expected = table[places, torch.tensor(target)].mean().item()
    assert labeler.score([pair.prompt], [pair.first])[0] == pytest.approx(expected, abs=1e-4)
    (judged,) = labeler.label([pair])
    assert judged.messages == pair.messages
    assert judged.p_first is not None


def test_a_chat_template_needs_the_tokenizer(tiny_model_folder):
    chat = Template(chat=True)
    with pytest.raises(ValueError, match=r"policy_template\.chat"):
        LikelihoodLabeler(Server(), terms=TERMS, policy_template=chat).prompt_version  # noqa: B018
    labeler = LikelihoodLabeler(str(tiny_model_folder), terms=TERMS, policy_template=chat)
    with pytest.raises(ValueError, match="expected a chat template in the tokenizer"):
        labeler.score(["a cat"], ["sat"])
