import pytest

from rlaif_pl.rl.splicing import splice, spliced_pairs
from rlaif_pl.types import Prompt

PROMPTS = [Prompt("a dog barks", "dog"), Prompt("a cat sleeps", "cat"), Prompt("rain", "rain")]
TEXTS = [
    ["My dog barks, and I want quiet.", "The dog is loud, so I am awake."],
    ["My cat sleeps, and I want to play.", "The cat is lazy; I am bored."],
    ["It rains, and I stay inside.", ""],
]


@pytest.mark.parametrize(
    ("start", "end", "mixed"),
    [
        ("My dog barks, and I am tired.", "It rains; I stay in.", "My dog barks, I stay in."),
        ("One. Two, three. Four.", "A, b. C, d. E.", "One. Two, d. E."),  # nearest the middle
        ("four words stand here", "no comma either side", "four words either side"),
        ("ein Satz, ein Ende. ", "zwei, drei. ", "ein Satz, drei. "),  # the last stop cuts nothing
        ("狗叫,我累。", "下雨了,我在家。", "狗叫,我在家。"),  # noqa: RUF001
        ("abcd", "efgh", "abgh"),
        ("", "an end", " end"),
        ("a start", "", "a"),
        ("", "", ""),
    ],
)
def test_texts_are_cut_at_the_clause_nearest_to_the_middle(start, end, mixed):
    assert splice(start, end) == mixed


def test_a_pair_is_a_response_and_itself_with_an_end_of_another_prompt():
    pairs = spliced_pairs(PROMPTS, TEXTS, "policy T=1", count=1)
    assert [pair.group for pair in pairs] == ["dog", "cat", "rain"]
    for pair, row, texts in zip(pairs, PROMPTS, TEXTS, strict=True):
        assert pair.prompt == row.text
        assert pair.p_first is None
        assert pair.source is None
        authors = {
            pair.provenance.first_policy: pair.first,
            pair.provenance.second_policy: pair.second,
        }
        assert authors["policy T=1"] == texts[0]
        others = [text for group in TEXTS if group is not texts for text in group if text]
        assert authors["policy T=1 spliced"] in {splice(texts[0], other) for other in others}


def test_empty_responses_and_equal_ones_make_no_pair():
    assert len(spliced_pairs(PROMPTS, TEXTS, "p", count=2)) == 5
    same = [["a, b"], ["c, b"]]
    assert spliced_pairs(PROMPTS[:2], same, "p") == []
    assert spliced_pairs(PROMPTS[:2], [["a, b"], [""]], "p") == []


def test_the_seed_chooses_and_a_prompts_pair_does_not_depend_on_where_it_stands():
    many = [Prompt(f"p{n}", f"g{n}") for n in range(40)]
    texts = [[f"I am {n}, and I want {n}."] for n in range(40)]
    first = spliced_pairs(many, texts, "p", seed=1)
    assert first == spliced_pairs(many, texts, "p", seed=1)
    assert first != spliced_pairs(many, texts, "p", seed=2)
    spliced_first = sum(pair.provenance.first_policy == "p spliced" for pair in first)
    assert 10 < spliced_first < 30


def test_no_pairs_are_the_default_of_callers_and_too_many_are_refused():
    assert spliced_pairs(PROMPTS, TEXTS, "p", count=0) == []
    assert spliced_pairs([], [], "p", count=0) == []
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"spliced of 0 to 2, .* got {count}"):
            spliced_pairs(PROMPTS, TEXTS, "p", count=count)
    with pytest.raises(ValueError, match="expected two prompts or more"):
        spliced_pairs(PROMPTS[:1], TEXTS[:1], "p")
