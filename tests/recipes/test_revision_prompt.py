from collections import Counter

import pytest

from rlaif_pl.labeling.strategies.pairwise import load_principles as load_questions
from rlaif_pl.recipes.revision_prompt import (
    RevisionLayout,
    draw_principle,
    load_examples,
    load_layout,
    load_principles,
)

PRINCIPLES, VERSION = load_principles("revision-principles-1")
EXAMPLES, _ = load_examples("exemplars-revision-1", PRINCIPLES, 3)
TEXTS, _ = load_layout("revision-1")


def layout(**options):
    return RevisionLayout(TEXTS, PRINCIPLES, **options)


def test_there_are_sixteen_principles_as_many_as_questions_for_labels():
    assert VERSION == "revision-principles-1"
    assert len(PRINCIPLES) == len({each.name for each in PRINCIPLES}) == 16
    assert len(load_questions("principles-1")[0]) == 16
    assert len({each.critique for each in PRINCIPLES} | {p.revision for p in PRINCIPLES}) == 32


def test_a_draw_depends_on_seed_prompt_and_round_only():
    def drawn(seed, group, number):
        return draw_principle(PRINCIPLES, seed, group, f"text of {group}", number).name

    assert drawn(0, "a", 1) == drawn(0, "a", 1)
    for others in (
        [drawn(seed, "a", 1) for seed in range(12)],
        [drawn(0, f"g{n}", 1) for n in range(12)],
        [drawn(0, "a", n) for n in range(1, 13)],
    ):
        assert len(set(others)) > 3


def test_draws_of_two_rounds_are_independent_and_uniform():
    pairs = Counter(
        tuple(draw_principle(PRINCIPLES, 0, f"g{n}", "text", k).name for k in (1, 2))
        for n in range(25_600)
    )
    # 256 cells of 100 each on average: chi-squared with 255 degrees of freedom, mean 255, standard
    # deviation sqrt(510) = 22.6; within 5 of them in all but one of a million runs.
    chi = sum(
        (pairs[one.name, two.name] - 100) ** 2 / 100 for one in PRINCIPLES for two in PRINCIPLES
    )
    assert 255 - 5 * 22.6 < chi < 255 + 5 * 22.6


def test_a_critique_is_asked_for_word_by_word():
    question = layout().critique("Help me lie.", " Sure. ", PRINCIPLES[2])
    assert question.text == (
        f"{TEXTS['preamble']}\n\nHuman: Help me lie.\n\nAssistant: Sure.\n\n"
        f"Critique Request: {PRINCIPLES[2].critique}\n\n"
    )
    assert (question.assistant_prefix, question.chat) == ("Critique:", False)


def test_a_revision_follows_its_critique_or_stands_alone():
    question = layout().revision("Help me lie.", "Sure.", PRINCIPLES[0], "It helps to lie.")
    assert question.text.endswith(
        f"Assistant: Sure.\n\nCritique Request: {PRINCIPLES[0].critique}\n\n"
        f"Critique: It helps to lie.\n\nRevision Request: {PRINCIPLES[0].revision}\n\n"
    )
    alone = layout().revision("Help me lie.", "Sure.", PRINCIPLES[0], None)
    assert "Critique" not in alone.text
    assert alone.text.endswith(
        f"Assistant: Sure.\n\nRevision Request: {PRINCIPLES[0].revision}\n\n"
    )
    assert question.assistant_prefix == alone.assistant_prefix == "Revision:"


def test_examples_come_first_and_without_critiques_where_there_are_none():
    question = layout(examples=EXAMPLES).critique("Help me lie.", "Sure.", PRINCIPLES[0])
    assert question.text.count("»»» Example »»»") == len(EXAMPLES) == 3
    assert question.text.count("Critique: ") == question.text.count("Revision: ") == 3
    _, after = question.text.split("»»» Now the same for the conversation that follows »»»\n\n")
    assert after.startswith("Human: Help me lie.")
    bare = layout(examples=EXAMPLES, critiques=False).revision("x", "y", PRINCIPLES[0], None)
    assert "Critique" not in bare.text
    assert bare.text.count("Revision: ") == 3


def test_an_example_about_the_very_prompt_is_left_out():
    own = EXAMPLES[0].prompt.upper()
    question = layout(examples=EXAMPLES).critique(own, "Sure.", PRINCIPLES[0])
    assert question.text.count("»»» Example »»»") == 2


def test_dialogues_stay_and_plain_requests_become_one():
    dialogue = "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Help.\n\nAssistant:"
    assert layout().dialogue(dialogue) == dialogue.strip()
    assert layout().dialogue(" Help me. ") == "Human: Help me.\n\nAssistant:"
    question = layout().answer(dialogue)
    assert question.text.endswith("Assistant: Hello!\n\nHuman: Help.\n\n")
    assert question.assistant_prefix == "Assistant:"


def test_through_a_chat_template_a_single_turn_is_asked_as_it_is():
    chat = layout(chat=True)
    assert chat.answer("\n\nHuman: Help me.\n\nAssistant:").text == "Help me."
    question = chat.critique("Help me.", "No.", PRINCIPLES[0])
    assert question.chat
    assert question.assistant_prefix == "Critique:"
    assert question.text.endswith(PRINCIPLES[0].critique)
    longer = chat.answer("Human: Hi.\n\nAssistant: Hello!\n\nHuman: Help.\n\nAssistant:")
    assert longer.text.endswith("Human: Hi.\n\nAssistant: Hello!\n\nHuman: Help.")


@pytest.mark.parametrize("text", ["Revision Request: no", " critique: x", "Human: hi", "...", "12"])
def test_what_begins_with_a_label_or_has_no_letter_is_malformed(text):
    assert layout().is_malformed(text)
    assert not layout().is_malformed("I would rather not. Revision: x")


def test_texts_end_where_a_model_goes_on_to_something_else():
    assert layout().answer_stops == ("\nHuman:", "\nAssistant:")
    assert layout().stops == ("\nHuman:", "\nCritique Request:", "\nRevision Request:", "»»»")


def test_files_that_are_laid_out_otherwise_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- {name: a, critique: b}\n")
    with pytest.raises(ValueError, match="entry 1 of mine-.* to have a text for each of"):
        load_principles(str(path))
    path.write_text(
        "- {name: a, critique: b, revision: c}\n- {name: a, critique: d, revision: e}\n"
    )
    with pytest.raises(ValueError, match="different names"):
        load_principles(str(path))
    path.write_text("- {name: mine, critique: b, revision: c}\n")
    principles, version = load_principles(str(path))
    assert version.startswith("mine-")
    with pytest.raises(ValueError, match=r"name principles that are there, got \['deceit"):
        load_examples("exemplars-revision-1", principles, 3)
    assert load_examples("exemplars-revision-1", principles, 0)[0] == ()
    known = tuple(each for each in PRINCIPLES if each.name == EXAMPLES[0].principle)
    assert load_examples("exemplars-revision-1", known, 1)[0] == EXAMPLES[:1]
    with pytest.raises(ValueError, match="a text for each of"):
        load_layout("revision-principles-1")
