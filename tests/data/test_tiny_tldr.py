"""The embedded data set holds what its README says."""

import collections
import re

import pytest

from rlaif_pl.data import tiny_tldr
from rlaif_pl.data.sources import load_preferences, load_prompts

SPLITS = {split: tiny_tldr.load(split) for split in tiny_tldr.SPLITS}
POSTS = [post for posts in SPLITS.values() for post in posts]
EVALUATION = [post for split in ("dev", "final") for post in SPLITS[split]]


def words(text):
    return len(text.split())


def test_counts():
    counts = {split: len(posts) for split, posts in SPLITS.items()}
    assert counts == {"train": 252, "dev": 40, "final": 86}
    assert len({post.topic for post in SPLITS["train"]}) >= 20
    assert len({post.topic for post in POSTS}) >= 20


def test_ids_posts_and_summaries_are_unique():
    for field in ("id", "post", "summary"):
        values = [getattr(post, field) for post in POSTS]
        assert len(set(values)) == len(values), field


@pytest.mark.parametrize(("field", "low", "high"), [("post", 40, 90), ("summary", 8, 20)])
def test_lengths_in_words(field, low, high):
    outside = {p.id: words(getattr(p, field)) for p in POSTS}
    assert {key: n for key, n in outside.items() if not low <= n <= high} == {}


def test_evaluation_summaries_are_single_sentences_of_the_asked_length():
    for post in EVALUATION:
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
    first = collections.Counter(post.post.split()[0] for post in POSTS)
    assert sum(first[word] for word in ("I", "I'm", "I've", "My")) < 0.1 * len(POSTS)
    openings = collections.Counter(tuple(post.post.split()[:3]) for post in POSTS)
    assert openings.most_common(1)[0][1] <= 3


@pytest.mark.parametrize("split", ["dev", "final"])
@pytest.mark.parametrize("measure", [words, len])
def test_the_longer_summary_is_no_better_than_chance(split, measure):
    longer = [measure(post.better) > measure(post.worse) for post in SPLITS[split]]
    equal = [measure(post.better) == measure(post.worse) for post in SPLITS[split]]
    assert not any(equal)
    assert 0.45 <= sum(longer) / len(longer) <= 0.55


@pytest.mark.parametrize("split", ["dev", "final"])
def test_the_ways_to_fail_are_balanced(split):
    fails = collections.Counter(post.fails for post in SPLITS[split])
    assert set(fails) == {"coherence", "accuracy", "coverage"}
    assert max(fails.values()) - min(fails.values()) <= 2


def test_development_covers_the_topics():
    topics = collections.Counter(post.topic for post in EVALUATION)
    dev = collections.Counter(post.topic for post in SPLITS["dev"])
    for topic, count in topics.items():
        assert abs(dev[topic] - count * 40 / 126) < 1.5, topic


def test_gold_pairs_prefer_the_better_summary_on_a_balanced_side():
    loaded = load_preferences("tiny_tldr/final")
    assert loaded.dropped == {}
    by_id = {post.id: post for post in SPLITS["final"]}
    for pair in loaded.rows:
        post = by_id[pair.group]
        assert pair.prompt == post.post
        assert (pair.first if pair.p_first == 1.0 else pair.second) == post.better
        assert (pair.source, pair.provenance.strategy) == ("synthetic", "gold")
    share = sum(pair.p_first for pair in loaded.rows) / len(loaded.rows)
    assert 0.3 < share < 0.7


def test_prompts_have_references():
    prompts = load_prompts("tiny_tldr/train")
    assert len(prompts) == 252
    assert all(prompt.reference for prompt in prompts)
    assert prompts[0].group == SPLITS["train"][0].id


def test_names_that_do_not_exist_say_which_do():
    with pytest.raises(ValueError, match="expected tiny_tldr/train, .*got 'tiny_tldr/tests'"):
        load_prompts("tiny_tldr/tests")
    with pytest.raises(ValueError, match="posts and summaries only; take tiny_tldr/pairs"):
        load_preferences("tiny_tldr/train")
    with pytest.raises(ValueError, match="expected a split of train, dev, final"):
        tiny_tldr.load("test")
