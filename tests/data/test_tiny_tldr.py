"""The embedded data set holds what its README says."""

import collections
import re

import pytest

from rlaif_pl.data import tiny_tldr
from rlaif_pl.data.sources import load_preferences, load_prompts
from rlaif_pl.statistics.agreement import cohen_kappa

SPLITS = {split: tiny_tldr.load(split) for split in tiny_tldr.SPLITS}
POSTS = [post for posts in SPLITS.values() for post in posts]
PLAIN = [post for split in ("train", "dev", "final") for post in SPLITS[split]]
FAULTS = ("faults_dev", "faults_final")
FAULTY = [post for split in FAULTS for post in SPLITS[split]]


def words(text):
    return len(text.split())


def test_counts():
    counts = {split: len(posts) for split, posts in SPLITS.items()}
    assert counts == {"train": 1859, "dev": 60, "final": 120, "faults_dev": 40, "faults_final": 86}
    for split, number in (("dev", 2), ("final", 4)):
        topics = collections.Counter(post.topic for post in SPLITS[split])
        assert set(topics.values()) == {number}
        assert len(topics) == 30
    assert {post.topic for post in SPLITS["train"]} == {post.topic for post in SPLITS["dev"]}


def test_ids_posts_and_summaries_are_unique():
    for field in ("id", "post", "summary"):
        values = [getattr(post, field) for post in POSTS]
        assert len(set(values)) == len(values), field


@pytest.mark.parametrize(
    ("posts", "field", "low", "high"),
    [
        (PLAIN, "post", 40, 70),
        (PLAIN, "summary", 10, 18),
        (FAULTY, "post", 40, 90),
        (FAULTY, "summary", 8, 20),
    ],
)
def test_lengths_in_words(posts, field, low, high):
    outside = {p.id: words(getattr(p, field)) for p in posts}
    assert {key: n for key, n in outside.items() if not low <= n <= high} == {}


def test_a_post_asks_one_question_and_its_summary_is_a_sentence_of_the_writer():
    for post in PLAIN:
        assert post.post.count("?") == 1, post.id
        assert post.summary.endswith("."), post.id
        assert post.summary.count(".") == 1, post.id
        assert re.search(r"\b(I|me|my|we|us|our)\b", post.summary, re.IGNORECASE), post.id
        assert (post.better, post.worse, post.fails) == (None, None, None)


def test_no_summary_copies_seven_words_of_its_post():
    for post in PLAIN:
        said, read = (re.findall(r"[a-z0-9']+", t.lower()) for t in (post.summary, post.post))
        grams = {tuple(read[i : i + 7]) for i in range(len(read) - 6)}
        copied = [i for i in range(len(said) - 6) if tuple(said[i : i + 7]) in grams]
        assert not copied, post.id


def test_faulty_summaries_are_single_sentences_of_the_asked_length():
    for post in FAULTY:
        for text in (post.better, post.worse):
            assert 8 <= words(text) <= 22, post.id
            assert text.endswith("."), post.id
        assert len({post.summary, post.better, post.worse}) == 3


def test_no_two_posts_share_eight_words_in_a_row():
    owners = {}
    for post in POSTS:
        said = re.findall(r"[\w']+", post.post.lower())
        for n in range(len(said) - 7):
            gram = tuple(said[n : n + 8])
            assert owners.setdefault(gram, post.id) == post.id, gram


def test_few_posts_open_alike():
    first = collections.Counter(post.post.split()[0] for post in PLAIN)
    assert first["My"] < 0.125 * len(PLAIN)
    openings = collections.Counter(tuple(post.post.split()[:3]) for post in PLAIN)
    assert openings.most_common(1)[0][1] <= 0.02 * len(PLAIN)


@pytest.mark.parametrize("split", FAULTS)
@pytest.mark.parametrize("measure", [words, len])
def test_the_longer_summary_is_no_better_than_chance(split, measure):
    longer = [measure(post.better) > measure(post.worse) for post in SPLITS[split]]
    equal = [measure(post.better) == measure(post.worse) for post in SPLITS[split]]
    assert not any(equal)
    assert 0.45 <= sum(longer) / len(longer) <= 0.55


@pytest.mark.parametrize("split", FAULTS)
def test_the_ways_to_fail_are_balanced(split):
    fails = collections.Counter(post.fails for post in SPLITS[split])
    assert set(fails) == {"coherence", "accuracy", "coverage"}
    assert max(fails.values()) - min(fails.values()) <= 2


def test_pairs_of_faults_prefer_the_better_summary_on_a_balanced_side():
    loaded = load_preferences("tiny_tldr/faults_final")
    assert loaded.dropped == {}
    by_id = {post.id: post for post in SPLITS["faults_final"]}
    for pair in loaded.rows:
        post = by_id[pair.group]
        assert pair.prompt == post.post
        assert (pair.first if pair.p_first == 1.0 else pair.second) == post.better
        assert (pair.source, pair.provenance.strategy) == ("synthetic", "gold")
    share = sum(pair.p_first for pair in loaded.rows) / len(loaded.rows)
    assert 0.3 < share < 0.7


@pytest.mark.parametrize(("split", "pairs"), [("dev", 2), ("final", 1)])
def test_gold_pairs_were_read_for_every_post(split, pairs):
    found = tiny_tldr.readings(split)
    counts = collections.Counter(reading.post for reading in found)
    assert counts == {post.id: pairs for post in SPLITS[split]}
    for reading in found:
        assert reading.first != reading.second
        assert reading.reason.endswith("."), reading
        assert words(reading.reason) >= 4, reading
    first = sum(reading.verdict == "first" for reading in found)
    assert 0.4 < first / len(found) < 0.6


def test_gold_pairs_say_that_a_language_model_read_them():
    loaded = load_preferences("tiny_tldr/final")
    assert loaded.dropped == {}
    by_id = {post.id: post for post in SPLITS["final"]}
    value = {"first": 1.0, "second": 0.0, "tie": 0.5}
    for pair, reading in zip(loaded.rows, tiny_tldr.readings("final"), strict=True):
        assert pair.prompt == by_id[pair.group].post
        assert (pair.first, pair.second) == (reading.first, reading.second)
        assert pair.p_first == value[reading.verdict]
        assert (pair.source, pair.provenance.strategy) == ("reading", "gold")


def test_two_readers_agree_as_the_readme_says():
    found = [*tiny_tldr.readings("dev"), *tiny_tldr.readings("final")]
    both = [(r.verdict, r.second_verdict) for r in found if r.second_verdict is not None]
    kappa = cohen_kappa([a for a, _ in both], [b for _, b in both]).value
    assert len(both) == 60
    assert sum(a == b for a, b in both) == 55
    assert kappa == pytest.approx(0.84, abs=0.005)


def test_prompts_have_references():
    prompts = load_prompts("tiny_tldr/train")
    assert len(prompts) == 1859
    assert all(prompt.reference for prompt in prompts)
    assert prompts[0].group == SPLITS["train"][0].id


def test_names_that_do_not_exist_say_which_do():
    with pytest.raises(ValueError, match="expected tiny_tldr/train, .*got 'tiny_tldr/tests'"):
        load_prompts("tiny_tldr/tests")
    with pytest.raises(ValueError, match="posts and summaries only; take tiny_tldr/pairs"):
        load_preferences("tiny_tldr/train")
    with pytest.raises(ValueError, match="expected a split of train, dev, final, faults_dev"):
        tiny_tldr.load("test")
