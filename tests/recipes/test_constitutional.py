import json

import pytest

from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.data.revisions import Revision, chains, read_revisions, write_revisions
from rlaif_pl.data.sources import load_demonstrations, load_prompts
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.recipes.constitutional import (
    Reviser,
    RevisionOptions,
    demonstrations,
    whole_sentences,
)
from rlaif_pl.recipes.revision_prompt import draw_principle
from rlaif_pl.types import Prompt

TWO = RevisionOptions(rounds=2, shots=1)


def test_each_round_revises_the_revision_before_it(scripted, requests):
    backend = scripted()
    rows = Reviser(backend, TWO).revise(requests)
    assert [(row.group, row.round, row.response) for row in rows] == [
        (group, number, ("First answer.", "Revision number 1.", "Revision number 2.")[number])
        for group in "abc"
        for number in range(3)
    ]
    assert [row.critique for row in rows[:3]] == [None, "Critique number 1.", "Critique number 2."]
    assert [row.revises for row in rows[:3]] == [None, 0, 1]
    asked = backend.of("Critique:") + backend.of("Revision:")
    second = [
        q.text for q in asked if "Assistant: Revision number 1.\n\nCritique Request" in q.text
    ]
    assert len(second) == 2 * len(requests)
    assert not [text for text in second if "First answer." in text]


def test_principles_are_drawn_by_round_and_recorded(scripted, requests):
    backend = scripted()
    reviser = Reviser(backend, RevisionOptions(rounds=3, shots=0, seed=5))
    for row in reviser.revise(requests):
        if row.round == 0:
            assert row.principle is None
            continue
        drawn = draw_principle(reviser.principles, 5, row.group, row.prompt, row.round)
        assert row.principle == drawn.name
        assert row.backend == "scripted"
        assert "revision-principles-1+shots=0" in row.prompt_version
        asked = [
            c.question.text
            for c in backend.asked
            if drawn.critique in c.question.text and row.critique in c.question.text
        ]
        assert any(f"Revision Request: {drawn.revision}" in text for text in asked)


def test_tokens_and_money_of_a_round_are_those_of_its_calls(scripted, requests):
    rows = Reviser(scripted(), TWO).revise(requests)
    # a first answer is one call (2 read, 1 written, one cent), a round two
    assert [(row.read, row.written) for row in rows[:3]] == [(2, 1), (4, 2), (4, 2)]
    assert [row.cost_usd for row in rows[:3]] == pytest.approx([0.01, 0.02, 0.02])


def test_without_critiques_a_round_is_one_call(scripted, requests):
    backend = scripted()
    reviser = Reviser(backend, RevisionOptions(rounds=2, critiques=False))
    rows = reviser.revise(requests)
    assert len(backend.asked) == reviser.calls(3, 0) == 3 * 3
    assert not backend.of("Critique:")
    assert rows[2].response == "Revision number 2."
    assert rows[2].critique is None


def test_a_round_that_fails_is_counted_and_the_next_goes_on_from_before(scripted, requests):
    def write(call):
        said = call.question.text.split("»»» Now the same")[-1]
        assistant_prefix = call.question.assistant_prefix
        if assistant_prefix == "Assistant:":
            return "" if "neighbor" in said else " First answer."
        if assistant_prefix == "Critique:":
            # the dialogue's first critique fails; both rounds read the first answer
            return " Revision Request: no" if "sister" in said else " It is unkind."
        return Response(failure="too_long", read=3)

    rows = Reviser(scripted(write), TWO).revise(requests)
    found = [(row.group, row.round, row.failure) for row in rows]
    assert found == [
        ("a", 0, "answer_empty"),
        ("b", 0, None),
        ("b", 1, "critique_malformed"),
        ("b", 2, "critique_malformed"),
        ("c", 0, None),
        ("c", 1, "revision_too_long"),
        ("c", 2, "revision_too_long"),
    ]
    assert [row.revises for row in rows if row.round == 2] == [0, 0]
    assert all(row.response == "" for row in rows if row.failure)
    assert rows[-1].read == 2 + 3
    assert demonstrations(rows).revised == 0
    assert demonstrations(rows).dropped == {"critique_malformed": 2, "revision_too_long": 2}


def test_only_revisions_and_helpful_answers_are_demonstrated(scripted, requests):
    reviser = Reviser(scripted(), RevisionOptions(rounds=2, shots=0, helpful_answers=2))
    rows = [*reviser.revise(requests[:2]), *reviser.answer([Prompt("How are you?", "h")])]
    good = [Prompt("Why?", "w", "Because.")]
    found = demonstrations(rows, good)
    assert [(row.group, row.reference) for row in found.rows] == [
        ("a", "Revision number 1."),
        ("a", "Revision number 2."),
        ("b", "Revision number 1."),
        ("b", "Revision number 2."),
        ("h", "First answer."),  # both samples say the same, so it is demonstrated once
        ("w", "Because."),
    ]
    assert found.revised == 4
    last = demonstrations(rows, only_last=True)
    assert [row.reference for row in last.rows[:2]] == ["Revision number 2."] * 2
    assert last.dropped == {"not the last": 2, "repeats an earlier one": 1}
    assert [row.cost_usd for row in rows if row.group == "h"] == [0.01, 0.01]  # both were paid for
    with pytest.raises(ValueError, match="expected cut to be 'sentence' or .* got 'Keep'"):
        demonstrations(rows, cut="Keep")


def test_principles_of_ones_own_need_no_examples(scripted, requests, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "- {name: mine, critique: Criticize it., revision: Mend it.}\n"
    )
    options = RevisionOptions(rounds=1, shots=0, principles=str(tmp_path / "mine.yaml"))
    rows = Reviser(scripted(), options).revise(requests[:1])
    assert [row.principle for row in rows] == [None, "mine"]


def test_a_cut_revision_ends_with_its_last_sentence(scripted, requests):
    def write(call):
        cut = (
            " No. That would be unki"
            if call.question.assistant_prefix == "Revision:"
            else " Sure thing"
        )
        return Response(text=cut, finished=False)

    rows = Reviser(scripted(write), RevisionOptions(rounds=1)).revise(requests[:1])
    assert rows[1].response == "No. That would be unki"
    assert [row.reference for row in demonstrations(rows).rows] == ["No."]
    (kept,) = demonstrations(rows, cut="keep").rows
    assert (kept.reference, kept.columns) == (rows[1].response, {"is_finished": False})
    assert demonstrations(rows, cut="drop").dropped == {"cut by the length limit": 1}
    assert whole_sentences('He said "no." And th') == 'He said "no."'
    assert whole_sentences("It costs 3.50 or so") == ""


def test_a_revision_that_changes_nothing_is_told_and_left_out(scripted, requests):
    write = lambda call: " Same." if call.question.assistant_prefix != "Critique:" else " Fine."  # noqa: E731
    rows = Reviser(scripted(write), TWO).revise(requests[:1])
    assert [row.unchanged for row in rows] == [False, True, True]
    assert demonstrations(rows).dropped == {"unchanged": 2}


def test_kept_replies_are_not_asked_for_again(scripted, requests, tmp_path):
    class KilledError(Exception):
        pass

    def stop_after(count):
        seen = []

        def watch(_call, _reply):
            seen.append(1)
            if len(seen) == count:
                raise KilledError

        return watch

    whole = Reviser(scripted(), TWO).revise(requests)
    asked = 0
    for count in (2, 3, 4):
        backend = scripted()
        with ReplyStore(tmp_path / "replies.sqlite") as store, pytest.raises(KilledError):
            Reviser(backend, TWO, store, stop_after(count)).revise(requests)
        asked += len(backend.asked)
    assert asked == 2 + 3 + 4
    backend = scripted()
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        assert Reviser(backend, TWO, store).revise(requests) == whole
    assert len(backend.asked) == 15 - asked  # 3 prompts, an answer and 2 rounds of 2 calls each


def test_turns_of_a_request_stay_with_its_revisions(scripted, tmp_path):
    turns = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Help me lie."},
    ]
    asked = load_prompts([{"prompt": turns}, {"prompt": turns[2:]}])
    rows = demonstrations(Reviser(scripted(), TWO).revise(asked), only_last=True).rows
    write_prompts(tmp_path / "d.jsonl", rows)
    written = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [row["messages"] for row in written] == [turns, turns[2:]]
    assert load_demonstrations(str(tmp_path / "d.jsonl"))[0].messages == asked[0].messages


def test_revisions_are_written_and_read_back(scripted, requests, tmp_path):
    rows = Reviser(scripted(), TWO).revise(requests)
    write_revisions(tmp_path / "r.jsonl", rows)
    assert read_revisions(tmp_path / "r.jsonl") == rows
    chain = chains(rows)["b", "How do I fool my sister?"]
    assert {number: row.response for number, row in chain.items()} == {
        0: "First answer.",
        1: "Revision number 1.",
        2: "Revision number 2.",
    }
    write_revisions(tmp_path / "r.jsonl", [*rows, rows[1]])
    with pytest.raises(ValueError, match="round 1 of a twice"):
        read_revisions(tmp_path / "r.jsonl")


def test_numbers_that_mean_nothing_are_refused(scripted):
    with pytest.raises(ValueError, match="rounds of at least 1, got 0"):
        RevisionOptions(rounds=0)
    with pytest.raises(ValueError, match="shots from 0 to 3 with exemplars-revision-1, got 4"):
        Reviser(scripted(), RevisionOptions(shots=4))


def test_the_last_revision_is_the_one_before_a_round_that_changed_nothing():
    def row(number, response, **more):
        return Revision("g", "p", "harmful", number, response, **more)

    rows = [row(0, "bad."), row(1, "good."), row(2, "good.", unchanged=True)]
    found = demonstrations(rows, only_last=True)
    assert [each.reference for each in found.rows] == ["good."]
    assert found.dropped == {"unchanged": 1}
