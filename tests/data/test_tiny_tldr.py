"""The embedded data set holds what its README says."""

import collections
import re

import pytest

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.sources import load_preferences, load_prompts
from rlaif_pl.data.sources.load import FOLDER
from rlaif_pl.statistics.agreement import cohen_kappa


def facts(name):
    return [row.fields for row in read_rows(FOLDER / "tiny_tldr" / name)]


FAULTS = ("faults_dev", "faults_final")
SPLITS = {
    split: list(load_prompts(f"tiny_tldr/{split}")) for split in ("train", "dev", "final", *FAULTS)
}
PAIRS = {
    split: list(load_preferences(f"tiny_tldr/{split}").rows) for split in ("dev", "final", *FAULTS)
}
POSTS = [post for posts in SPLITS.values() for post in posts]
PLAIN = [post for split in ("train", "dev", "final") for post in SPLITS[split]]
FAULTY = [post for split in FAULTS for post in SPLITS[split]]
FACTS = {row["id"]: row for row in facts("facts.jsonl")}
READINGS = facts("readings.jsonl")
VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5}
READ = [*PAIRS["dev"], *PAIRS["final"]]  # the pairs that readings are of, in order


def words(text):
    return len(text.split())


def better_and_worse(pair):
    return (pair.first, pair.second) if pair.p_first == 1.0 else (pair.second, pair.first)


def test_counts():
    counts = {split: len(posts) for split, posts in SPLITS.items()}
    assert counts == {"train": 1859, "dev": 60, "final": 120, "faults_dev": 40, "faults_final": 86}
    for split, number in (("dev", 2), ("final", 4)):
        topics = collections.Counter(FACTS[post.group]["topic"] for post in SPLITS[split])
        assert set(topics.values()) == {number}
        assert len(topics) == 30
    train, dev = ({FACTS[post.group]["topic"] for post in SPLITS[s]} for s in ("train", "dev"))
    assert train == dev
    assert list(FACTS) == [post.group for post in POSTS]


def test_ids_posts_and_summaries_are_unique():
    for field in ("group", "text", "reference"):
        values = [getattr(post, field) for post in POSTS]
        assert len(set(values)) == len(values), field


@pytest.mark.parametrize(
    ("posts", "field", "low", "high"),
    [
        (PLAIN, "text", 40, 70),
        (PLAIN, "reference", 10, 18),
        (FAULTY, "text", 40, 90),
        (FAULTY, "reference", 8, 20),
    ],
)
def test_lengths_in_words(posts, field, low, high):
    outside = {p.group: words(getattr(p, field)) for p in posts}
    assert {key: n for key, n in outside.items() if not low <= n <= high} == {}


def test_a_post_asks_one_question_and_its_summary_is_a_sentence_of_the_writer():
    for post in PLAIN:
        assert post.text.count("?") == 1, post.group
        assert post.reference.endswith("."), post.group
        assert post.reference.count(".") == 1, post.group
        assert re.search(r"\b(I|me|my|we|us|our)\b", post.reference, re.IGNORECASE), post.group
        assert FACTS[post.group].keys() == {"id", "topic"}


def test_no_summary_copies_seven_words_of_its_post():
    for post in PLAIN:
        said, read = (re.findall(r"[a-z0-9']+", t.lower()) for t in (post.reference, post.text))
        grams = {tuple(read[i : i + 7]) for i in range(len(read) - 6)}
        copied = [i for i in range(len(said) - 6) if tuple(said[i : i + 7]) in grams]
        assert not copied, post.group


def test_faulty_summaries_are_single_sentences_of_the_asked_length():
    pairs = [*PAIRS["faults_dev"], *PAIRS["faults_final"]]
    for post, pair in zip(FAULTY, pairs, strict=True):
        for text in (pair.first, pair.second):
            assert 8 <= words(text) <= 22, post.group
            assert text.endswith("."), post.group
        assert len({post.reference, pair.first, pair.second}) == 3


def test_no_two_posts_share_eight_words_in_a_row():
    owners = {}
    for post in POSTS:
        said = re.findall(r"[\w']+", post.text.lower())
        for n in range(len(said) - 7):
            gram = tuple(said[n : n + 8])
            assert owners.setdefault(gram, post.group) == post.group, gram


def test_few_posts_open_alike():
    first = collections.Counter(post.text.split()[0] for post in PLAIN)
    assert first["My"] < 0.125 * len(PLAIN)
    openings = collections.Counter(tuple(post.text.split()[:3]) for post in PLAIN)
    assert openings.most_common(1)[0][1] <= 0.02 * len(PLAIN)


@pytest.mark.parametrize("split", FAULTS)
@pytest.mark.parametrize("measure", [words, len])
def test_the_longer_summary_is_no_better_than_chance(split, measure):
    sizes = [tuple(map(measure, better_and_worse(pair))) for pair in PAIRS[split]]
    longer = [better > worse for better, worse in sizes]
    assert not any(better == worse for better, worse in sizes)
    assert 0.45 <= sum(longer) / len(longer) <= 0.55


@pytest.mark.parametrize("split", FAULTS)
def test_the_ways_to_fail_are_balanced(split):
    fails = collections.Counter(FACTS[post.group]["fails"] for post in SPLITS[split])
    assert set(fails) == {"coherence", "accuracy", "coverage"}
    assert max(fails.values()) - min(fails.values()) <= 2


def test_pairs_of_faults_are_of_their_posts_and_on_a_balanced_side():
    for post, pair in zip(SPLITS["faults_final"], PAIRS["faults_final"], strict=True):
        assert (pair.prompt, pair.group) == (post.text, post.group)
        assert pair.p_first in (0.0, 1.0)
        assert (pair.source, pair.provenance.strategy) == ("synthetic", "gold")
    share = sum(pair.p_first for pair in PAIRS["faults_final"]) / len(PAIRS["faults_final"])
    assert 0.3 < share < 0.7


@pytest.mark.parametrize(("split", "pairs"), [("dev", 2), ("final", 1)])
def test_gold_pairs_were_read_for_every_post(split, pairs):
    counts = collections.Counter(pair.group for pair in PAIRS[split])
    assert counts == {post.group: pairs for post in SPLITS[split]}
    first = sum(pair.p_first == 1.0 for pair in PAIRS[split])
    assert 0.4 < first / len(PAIRS[split]) < 0.6


def test_every_reading_has_a_reason():
    assert [reading["post"] for reading in READINGS] == [pair.group for pair in READ]
    for reading in READINGS:
        assert reading["reason"].endswith("."), reading
        assert words(reading["reason"]) >= 4, reading


def test_gold_pairs_say_that_a_language_model_read_them():
    by_id = {post.group: post for post in POSTS}
    for pair in READ:
        assert pair.prompt == by_id[pair.group].text
        assert pair.p_first in VERDICTS.values()
        assert (pair.source, pair.provenance.strategy) == ("reading", "gold")
    assert sum(pair.p_first == 0.5 for pair in READ) == 3


def test_two_readers_agree_as_the_readme_says():
    both = [
        (pair.p_first, VERDICTS[reading["second_verdict"]])
        for pair, reading in zip(READ, READINGS, strict=True)
        if "second_verdict" in reading
    ]
    kappa = cohen_kappa([a for a, _ in both], [b for _, b in both]).value
    assert len(both) == 60
    assert sum(a == b for a, b in both) == 55
    assert kappa == pytest.approx(0.84, abs=0.005)


def test_prompts_have_references():
    assert all(post.reference for post in POSTS)
    assert len(load_prompts("tiny_tldr/pairs")) == 140  # of those with pairs alone


def test_names_that_do_not_exist_say_which_do():
    with pytest.raises(
        ValueError, match="for prompts one of .*tiny_tldr/train, got 'tiny_tldr/tests'"
    ):
        load_prompts("tiny_tldr/tests")
    with pytest.raises(
        ValueError, match="for pairs one of .*tiny_tldr/pairs, got 'tiny_tldr/train'"
    ):
        load_preferences("tiny_tldr/train")
