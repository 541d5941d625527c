"""OpenAI's comparisons: votes to soft labels."""

import json

import pytest

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.records import group_of
from rlaif_pl.data.sources import DataSource, load_preferences, load_prompts
from rlaif_pl.data.sources.openai_comparisons import read_comparisons
from rlaif_pl.types import Provenance


def vote(choice, first="A.", second="B.", post="Post.", worker="w1", confidence=7, post_id="t3_1"):
    return {
        "info": {"id": post_id, "post": post, "title": "T"},
        "summaries": [{"text": f" {first}", "policy": "sup"}, {"text": second, "policy": "ref"}],
        "choice": choice,
        "worker": worker,
        "extra": {"confidence": confidence},
    }


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "batch.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_one_vote_keeps_worker_policies_and_confidence(write):
    (pair,) = load_preferences(write(vote(1))).rows
    assert (pair.prompt, pair.first, pair.second, pair.group) == ("Post.", "A.", "B.", "t3_1")
    assert (pair.p_first, pair.source) == (0.0, "human")
    assert pair.provenance == Provenance("sup", "ref", "w1", "human", confidence=7)


def test_news_articles_are_left_out_and_counted(write):
    article = vote(0)
    article["info"] = {"id": "x", "post": None, "article": "News.", "title": "T"}
    loaded = load_preferences(write(article, vote(1)))
    assert len(loaded.rows) == 1
    assert loaded.dropped == {"news article (CNN/DM), not a post": 1}


def test_votes_on_one_pair_become_their_share_whichever_way_round(write):
    # A wins as first, as second, and loses once: 2 of 3
    rows = [vote(0), vote(1, first="B.", second="A.", worker="w2"), vote(1, worker="w3")]
    loaded = load_preferences(write(*rows))
    (pair,) = loaded.rows
    assert (pair.first, pair.p_first) == ("A.", pytest.approx(2 / 3))
    assert pair.provenance.labeler == "3 workers"
    assert pair.provenance.confidence is None
    assert loaded.dropped == {"further vote on the same pair": 2}


def test_title_and_subreddit_stand_before_the_post_on_request(write):
    row = vote(0)
    row["info"]["subreddit"] = "pets"
    source = DataSource(write(row), with_title=True)
    (pair,) = load_preferences(source).rows
    assert pair.prompt == "SUBREDDIT: r/pets\nTITLE: T\nPOST: Post."
    assert pair.group == "t3_1"
    with pytest.raises(ValueError, match=r"info\.subreddit"):
        load_preferences(DataSource(write(vote(0)), with_title=True))


def test_a_tie_stays_soft_and_is_left_out_where_hard_labels_are_asked_for(write):
    path = write(vote(0), vote(1, worker="w2"), vote(0, post_id="t3_2"))
    assert [pair.p_first for pair in load_preferences(path).rows] == [0.5, 1.0]
    hard = load_preferences(DataSource(path, hard_labels=True))
    assert [pair.p_first for pair in hard.rows] == [1.0]
    assert hard.dropped["tie"] == 1


def test_the_same_summaries_of_two_posts_are_two_pairs(write):
    assert len(load_preferences(write(vote(0), vote(0, post_id="t3_2"))).rows) == 2


def test_a_post_without_id_is_grouped_by_its_text(write):
    row = vote(0)
    del row["info"]["id"], row["worker"], row["extra"]
    (pair,) = load_preferences(write(row)).rows
    assert pair.group == group_of("Post.")
    assert pair.provenance.confidence is None


def test_confidence_keeps_strong_votes_of_both_sides_and_limit_counts_after_it(write):
    rows = [vote(int(c > 5), post_id=f"t{c}", confidence=c) for c in (1, 2, 3, 4, 6, 7, 8, 9)]
    source = DataSource(write(*rows), confidence=[1, 2, 8, 9], limit=3)
    loaded = load_preferences(source)
    assert [pair.provenance.confidence for pair in loaded.rows] == [1, 2, 8]
    assert loaded.dropped == {"other confidence": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": 2}, "'choice' to be 0 or 1, got 2"),
        ({"choice": None}, "'choice' to be 0 or 1"),
        ({"info": {"id": "x"}}, "'info.post' to be some text"),
        ({"summaries": [{"text": "a"}]}, "two 'summaries'"),
        ({"summaries": [{"text": "a"}, {"text": " "}]}, r"'summaries\[1\].text' to be some text"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(write, change, message):
    path = write(vote(0), {**vote(0), **change})
    with pytest.raises(ValueError, match="batch.json:2: expected " + message):
        load_preferences(path)


def test_prompts_come_once_each(write):
    path = write(vote(0), vote(1, first="C."), vote(0, post_id="t3_2", post="Other."))
    assert [prompt.text for prompt in load_prompts(path)] == ["Post.", "Other."]


def test_the_real_file_has_the_known_counts(real_data):
    path = str(real_data / "tldr_comparisons" / "batch13.json")
    everything = load_preferences(path)
    votes = len(everything.rows) + sum(everything.dropped.values())
    assert votes == 981
    assert len(load_prompts(path)) == len({pair.group for pair in everything.rows}) == 810
    strong = load_preferences(DataSource(path, confidence=[1, 2, 8, 9]))
    assert 981 - strong.dropped["other confidence"] == 495
    assert len(load_preferences(DataSource(path, confidence=[1, 2, 8, 9], limit=240)).rows) == 240


def test_the_real_file_without_ids_is_read(real_data):
    loaded = load_preferences(str(real_data / "tldr_comparisons" / "edit_b2_eval_test.json"))
    assert 1 <= len(loaded.rows) <= 5


def test_numbers_of_a_table_with_gaps_name_the_same_side():
    rows = [vote(0.0), vote(1.0, post="Other.", post_id="t3_2")]
    rows[0]["extra"] = {"confidence": 7.0}
    one, two = read_comparisons([RawRow("x:1", row) for row in rows]).rows
    assert (one.p_first, two.p_first) == (1.0, 0.0)
    assert one.provenance.confidence == 7
    for choice in (True, 0.5, "0"):
        with pytest.raises(ValueError, match="x:1: expected 'choice' to be 0 or 1"):
            read_comparisons([RawRow("x:1", vote(choice))])
