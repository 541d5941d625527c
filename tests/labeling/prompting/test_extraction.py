import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlaif_pl.labeling.prompting.extraction import continued_verdict, extract_verdict
from rlaif_pl.labeling.thinking import answer_of

BETTER = [
    # the whole answer is a name
    ("1", "first"),
    ("2", "second"),
    (" 2.\n", "second"),
    ("(A)", "first"),
    ("(B)", "second"),
    ("B", "second"),
    ("[2]", "second"),
    ("**2**", "second"),
    ("Summary 1", "first"),
    ("summary two", "second"),
    ("Response (B)", "second"),
    ("Option A.", "first"),
    ("The second one.", "second"),
    ("the latter", "second"),
    ("First", "first"),
    ("It's the first summary.", "first"),
    # a verdict is stated
    ("Preferred: 2", "second"),
    ("Preferred Summary=1", "first"),
    ("Preferred Response = 2\n\nText - another", "second"),
    ("Answer: (B)", "second"),
    ("My choice is the first summary.", "first"),
    ("The better summary is Summary 2.", "second"),
    ("The best one is 1.", "first"),
    ('The better one is , "Summary 2."', "second"),
    ('The better one is , "Summary 2" is the better one.', "second"),
    ("The better one is the first one.", "first"),
    ("Verdict: **Response 2**", "second"),
    ("Final answer: A", "first"),
    ("I prefer the second response, since it is kind.", "second"),
    ("I would choose Summary 1 because it is shorter.", "first"),
    ("I'd go with 2.", "second"),
    ("We pick option (A).", "first"),
    ("Summary 2 wins.", "second"),
    ("1\n\nIt has all the facts.", "first"),
    ("2, because it names the dog.", "second"),
    ("The worse summary is Summary 2.", "first"),
    ("The first is more concise. The second is more accurate.\nPreferred: 2", "second"),
    ("The first summary is better written. Even so, my preference: 2.", "second"),
    # a clause compares
    ("The first summary is better.", "first"),
    ("The second summary is clearly better than the first.", "second"),
    ("I think that response 2 is the better one.", "second"),
    ("Summary A is much better", "first"),
    ("A is better than B", "first"),
    ("Response 1 is worse.", "second"),
    ("The first summary is worse than the second one.", "second"),
    ("The first is not as good as the second.", "second"),
    ("Summary 2 isn't as good as Summary 1.", "first"),
    ("The latter would be preferable.", "second"),
    ("Both are fine, but the second is better.", "second"),
    ("Neither is perfect, but Summary 2 is better.", "second"),
    ("While the first is better at brevity, overall the second is better.", "second"),
    ("The first is more concise, but the second is better.", "second"),
    ("Is the first better? No. Summary 2 is better.", "second"),
    ("I’m sorry for the delay. The first summary is better.", "first"),
    # a comparison of one quality
    ("The second summary is more accurate.", "second"),
    ("Response 1 is much more helpful and honest.", "first"),
    ("Both convey the same information, but the second one is more effective.", "second"),
    ("Summary 1: covers the dog.\nSummary 2: covers the gate. Summary 2 is better.", "second"),
    # a tie
    ("Summary 1 would be better if it were shorter.", "malformed"),
    ("The first would have been better had it named the dog. I prefer the second.", "second"),
    ("If I had to choose, the second would be better.", "second"),
    ("The first would be the better choice, as it had more details.", "first"),
    ("Both are equally good.", "tie"),
    ("It is a tie.", "tie"),
    ("There is no real difference between the two.", "tie"),
    ("They are of the same quality", "tie"),
    ("Summary 1 is just as good as Summary 2.", "tie"),
    ("They are about the same.", "tie"),
    # no verdict
    ("", "empty"),
    (" \n\t", "empty"),
    ("**", "empty"),
    ("Both summaries are good.", "both"),
    ("Either one would do.", "both"),
    ("Both summaries convey the same information.", "both"),
    ("Preferred: both", "both"),
    ("Neither of the summaries is any good.", "neither"),
    ("None of them covers the question.", "neither"),
    ("I'm sorry, but I can't help with that.", "refused"),
    ("I cannot say which summary is better.", "refused"),
    ("As an AI language model, I do not have preferences.", "refused"),
    ("I can't say that the first summary is better.", "refused"),
    ("The first summary is not better.", "malformed"),
    ("The first is better. The second is better.", "malformed"),
    (
        "If you like brevity the first is better; if you like detail the second is better.",
        "malformed",
    ),
    ("Preferred: 1\nPreferred: 2", "malformed"),
    ("The first is more concise and the second is more accurate.", "malformed"),
    ("Is the first summary better?", "malformed"),
    ("The dog ran through the gate.", "malformed"),
    ("3", "malformed"),
    ("Summary 1: it covers the question.", "malformed"),
    ("Summary 1\nIt is short.\nSummary 2\nIt is long.", "malformed"),
    ("1. Short and clear.\n2. Long.", "malformed"),
    ("I prefer not to choose.", "malformed"),
    ("The better one is the better one.", "malformed"),
    ("12", "malformed"),
    ("A dog ran home.", "malformed"),
]
WORSE = [
    ("1", "first"),
    ("More Harmful Response=2", "second"),
    ("Response 1 is more harmful.", "first"),
    ("The second response is the more harmful one.", "second"),
    ("The more harmful response is Response 1.", "first"),
    ("Response 2 is less harmful.", "first"),
    ("The first response is safer.", "second"),
    ("Response 1 is better.", "second"),
    ("Response 1 is worse.", "first"),
    ("Response 1 is not as harmful as Response 2.", "second"),
    ("The second response is far more dangerous than the first.", "second"),
    ("Response 1 is more helpful.", "second"),
    ("The better response is Response 1.", "second"),
    ("The less harmful response is Response 1.", "second"),
    ("Answer: 1", "first"),
    ("Neither response is harmful.", "neither"),
    ("Both are equally harmful.", "tie"),
    ("Both are harmful.", "both"),
]
SWAP = {"first": "second", "second": "first"}


@pytest.mark.parametrize(("text", "verdict"), BETTER)
def test_verdicts_on_the_better_response(text, verdict):
    assert extract_verdict(text) == verdict


@pytest.mark.parametrize(("text", "verdict"), WORSE)
def test_verdicts_on_the_more_harmful_response(text, verdict):
    assert extract_verdict(text, asks_worse=True) == verdict


@given(st.text(max_size=60))
@example("<THINK>")  # found by chance: thoughts are no answer, whatever is in them
@example("</THINK>")
@example("<think>Summary 1</think>")
def test_any_text_gives_one_verdict(text):
    kinds = {"first", "second", "tie", "both", "neither", "refused", "malformed", "empty"}
    answer, verdict = answer_of(text), extract_verdict(text)
    if answer is None:
        assert verdict == "unclosed_thought"
        return
    assert verdict in kinds
    said = answer.translate(str.maketrans("", "", '*_`#>"“”')).strip()
    assert (verdict == "empty") == (not said)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Summary 2 is worse.", "first"),
        ("**Summary 2** is clearly worse.", "first"),
        ("Summary 1 is inferior to Summary 2", "second"),
        ("Summary 1 omits the dog, so Summary 2 is better.", "second"),
        ("Summary 1 and Summary 2 are equally good.", "tie"),
        ("1 and 2 are equally good.", "tie"),
        ("Summary 1 and Summary 2 are both good.", "both"),
        ("Summary 1 is on par with Summary 2.", "tie"),
        ("A is worse than B.", "second"),
        (" Summary 2 is worse.<think>", "unclosed_thought"),
        ("Summary 1 omits the rain, whereas Summary 2 includes it.", "malformed"),
        ("Summary 1 omitted the rain.", "malformed"),
        ("Summary 1 could name the rain.", "malformed"),
        ("Summary 1 would be better if it were shorter. Summary 2 is better.", "second"),
        ("\n\nSummary 1 misrepresents the post.", "malformed"),
        ("<think>Hm.</think> Summary 1 misrepresents the post.", "malformed"),
        ("Summary 1 covers both events equally well.", "malformed"),
        ("Summary 2 is too long and Summary 1 is concise.", "malformed"),
        ("Summary 2", "second"),
        ("Summary 2 because it names the dog.", "second"),
        ("Summary 2 based on the facts.", "second"),
        ("Summary 2 thanks to its clarity.", "second"),
        ("Summary 2 across all criteria.", "second"),
        ("Summary 2 unless you want the names.", "second"),
        ("Summary 2 always, as it names the dog.", "second"),
        ("Summary 2 always names the dog.", "second"),
        ("Summary 2 less for its length than its facts.", "second"),
        ("Summary 2 plus it is short.", "second"),
        ("Summary 2 versus Summary 1.", "second"),
        ("Summary 2 vs. Summary 1.", "second"),
        ("Summary 2 perhaps.", "second"),
        ("Summary 2 besides being short is clear.", "second"),
        ("Summary 2 this time.", "second"),
        ("Summary 2 its facts are right.", "second"),
        ("Summary 2 covers both events and is better.", "malformed"),
        ("Summary 2 names neither dog.", "malformed"),
        ("Summary 1 is as bad as Summary 2: neither names the dog.", "neither"),
        ("Summary 1 is as good as Summary 2, both name the dog.", "both"),
        # these go on from the opening
        (" Summary 1. Summary 2 is more accurate.", "first"),
        (" Summary 2, by far.", "second"),
        (" Summary 2 as it names the dog.", "second"),
        (" Summary 1 covers both events equally well.", "first"),
        (" equally good.", "tie"),
    ],
)
def test_a_reply_that_is_a_sentence_of_its_own_is_not_read_with_the_opening(reply, verdict):
    assert continued_verdict("The better one is", reply) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Response 1 is safer than Response 2.", "second"),
        ("Response 2 is more harmful.", "second"),
        ("Response 1 refuses to help.", "malformed"),
        ("Response 2 provides a safe answer.", "malformed"),
        ("Response 2 can do harm.", "malformed"),
        (" Response 2 is, by far.", "second"),
    ],
)
def test_a_sentence_of_its_own_about_harm(reply, verdict):
    assert continued_verdict("The more harmful one is", reply, asks_worse=True) == verdict
