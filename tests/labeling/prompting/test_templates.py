import hashlib
from importlib.resources import files

import pytest

from rlaif_pl.labeling.prompting.layout import Layout, PromptSample, load_exemplars
from rlaif_pl.labeling.prompting.templates import (
    PAIR,
    PRINCIPLED,
    SINGLE,
    load_prompt,
    parse_prompt,
)

GOOD = "asks: better\n---\nT - {prompt}\n1 - {first}\n2 - {second}\n\nBest="
PARTS = (
    "asks: worse\noptions: [' a', ' b']\n--- preamble\nJudge.\n--- example\n# Ex\n"
    "--- after examples\n# Now\n--- sample\nT {prompt}\n1 {first}\n2 {second}\n"
    "--- reasoning\nWhy?\nBecause\n--- thoughts\n1: {first}\n2: {second}\n--- ending\nWorse: \n"
)
EXAMPLE = "[{prompt: P, first: F, second: S, better: 1, thoughts: [good, bad]}]"
NAMES = [
    each.name.removesuffix(".txt") for each in (files("rlaif_pl.labeling") / "prompts").iterdir()
]
PAIRWISE = sorted(name for name in NAMES if name.split("-")[1:2] in (["base"], ["detailed"]))


def zero_shot(prompt, *texts):
    question = Layout(prompt).verdict(PromptSample(*texts))
    return question.text + question.assistant_prefix


def test_there_is_a_prompt_for_each_task_and_preamble():
    tasks = ("summarization", "helpful", "harmless")
    assert set(PAIRWISE) == {f"{t}-{p}-1" for t in tasks for p in ("base", "detailed")}


@pytest.mark.parametrize("name", PAIRWISE)
def test_every_packaged_prompt_is_well_formed(name):
    prompt = load_prompt(name)
    text = zero_shot(prompt, "PPP", "AAA", "BBB")
    assert text.index("PPP") < text.index("AAA") < text.index("BBB")
    assert text.endswith(prompt.ending)
    assert prompt.ending.endswith("=")
    assert prompt.version == name
    for shots in (0, 1):
        file = load_exemplars(f"exemplars-{name.split('-')[0]}-1", 1, thoughts=True)
        Layout(prompt, file, shots, cot=True)  # has every part


def test_only_harmless_pairwise_prompts_ask_for_the_worse():
    worse = [name for name in PAIRWISE if load_prompt(name).asks_worse]
    assert worse == ["harmless-base-1", "harmless-detailed-1"]


def test_summarization_layout_follows_the_paper():
    text = zero_shot(load_prompt("summarization-base-1"), " post ", "one", "two")
    assert text.endswith("\n\nText - post\nSummary 1 - one\nSummary 2 - two\n\nPreferred Summary=")


def test_braces_in_texts_are_left_alone():
    text = zero_shot(parse_prompt(GOOD, "v"), "{first}", "{second}", "{x}")
    assert text == "T - {first}\n1 - {second}\n2 - {x}\n\nBest="


def test_ones_own_file_is_versioned_by_its_content(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(GOOD)
    first = load_prompt(str(path))
    path.write_text(GOOD + " ")
    second = load_prompt(str(path))
    assert first.version.startswith("mine-")
    assert first.version != second.version
    assert first.parts == second.parts  # white space at the end would change the verdict's token


def test_ones_own_plain_file_keeps_its_white_space():
    plain = "asks: better\n---\n\nT - {prompt}\n1 - {first}\n2 - {second}\n   Best= \n"
    assert zero_shot(parse_prompt(plain, "v"), "p", "a", "b").endswith("2 - b\n   Best=")


@pytest.fixture
def layout(tmp_path):
    """Lays one's own file out with one's own example."""
    (tmp_path / "ex.yaml").write_text(EXAMPLE)
    file = load_exemplars(str(tmp_path / "ex.yaml"), 1, thoughts=True)

    def make(shots=1, **options):
        return Layout(parse_prompt(PARTS, "v"), file, shots, **options)

    return make


def test_one_shot_by_hand(layout):
    question = layout().verdict(PromptSample("q", "f", "s"))
    # Asked for the worse of two where the first is better, the example's answer is the second.
    assert question.text == (
        "Judge.\n\n# Ex\n\nT P\n1 F\n2 S\n\nWorse: b\n\n# Now\n\nT q\n1 f\n2 s\n\n"
    )
    assert question.assistant_prefix == "Worse:"


def test_one_shot_chain_of_thought_by_hand(layout):
    made = layout(cot=True)
    question = made.reasoning(PromptSample("q", "f", "s"))
    assert question.text == (
        "Judge.\n\n# Ex\n\nT P\n1 F\n2 S\n\n1: good\n2: bad\n\nWorse: b\n\n# Now\n\n"
        "T q\n1 f\n2 s\n\n"
    )
    assert question.assistant_prefix == "1:"
    assert made.stops == ("Worse:", "# Ex", "# Now")
    after = made.verdict_after(PromptSample("q", "f", "s"), " fine\n2: not ")
    assert after.text == question.text
    assert after.assistant_prefix == "1: fine\n2: not\n\nWorse:"


def test_zero_shot_chain_of_thought_by_hand(layout):
    made = layout(shots=0, cot=True)
    question = made.reasoning(PromptSample("p", "f", "s"))
    assert question.text == "Judge.\n\nT p\n1 f\n2 s\n\nWhy?\n"
    assert question.assistant_prefix == "Because"
    # A server that strips answers still gets a space before the rationale.
    assert (
        made.verdict_after(PromptSample("p", "f", "s"), "so").assistant_prefix
        == "Because so\n\nWorse:"
    )


def test_an_example_is_never_about_the_sample_itself(layout):
    text = layout().verdict(PromptSample(" p", "f", "s")).text  # "P" in other case and spacing
    assert "F" not in text
    assert "# Ex" not in text
    file = load_exemplars("exemplars-summarization-1", 8, thoughts=True)
    for own in file.exemplars:
        shown = file.without(own.prompt.replace(" ", "\n"), 2)
        assert len(shown) == 2
        assert own not in shown


@pytest.mark.parametrize(("task", "count"), [("summarization", 8), ("helpful", 2), ("harmless", 2)])
def test_packaged_examples_favor_no_slot_and_carry_thoughts(task, count):
    file = load_exemplars(f"exemplars-{task}-1", count, thoughts=True)
    slots = [each.better for each in file.exemplars]
    assert len(slots) == count
    assert slots.count(1) == slots.count(2)
    assert set(slots[:2]) == {1, 2}  # two shots are balanced, too
    assert len({each.prompt for each in file.exemplars}) == count


@pytest.mark.parametrize("more", range(2))
def test_the_harmless_examples_answer_with_the_worse(more):
    file = load_exemplars("exemplars-harmless-1", 2, thoughts=False)
    text = Layout(load_prompt("harmless-base-1"), file, 2).verdict(PromptSample("p", "f", "s")).text
    shown = text.split("»»» Example »»»")[1:][more]
    rude = shown.index("too dumb") if more else shown.index("with a knife")
    slot = 1 if rude < shown.index("Response 2 -") else 2
    assert f"More Harmful Response={slot}\n" in shown


def test_an_unknown_prompt_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="summarization-base-1"):
        load_prompt("summarisation")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (GOOD.replace("asks: better\n---\n", ""), "begin with"),
        (GOOD.replace("better", "best"), "begin with"),
        (GOOD.replace("asks: better", "asks: better\nanswers: 2"), "answers"),
        (GOOD.replace("---\n", ""), "a line '---'|begin with"),
        (GOOD.replace("{second}", ""), "once"),
        (GOOD.replace("Best=", "{first}"), "end in a line"),
        (PARTS.replace("--- ending\nWorse: \n", ""), "ending"),
        (PARTS.replace("Judge.", "Judge {first}."), "preamble"),
        (PARTS.replace("--- example", "--- exampel"), "exampel"),
        (PARTS.replace("--- example", "--- preamble"), "once"),
        (PARTS.replace("2: {second}", ""), "thoughts"),
        (PARTS.replace("[' a', ' b']", "[1, 2]"), "in quotes"),
        (PARTS.replace("[' a', ' b']", "['1', '1']"), "different"),
        (PARTS.replace("[' a', ' b']", "['1', ' 1']"), "different"),
        (PARTS.replace("[' a', ' b']", "[[1], [2]]"), "different"),
    ],
)
def test_a_malformed_file_is_refused(content, match):
    with pytest.raises(ValueError, match=match):
        parse_prompt(content, "v")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a: b", "list"),
        ("[{prompt: P}]", "expected"),
        (EXAMPLE.replace("better: 1", "better: 3"), "1 or 2"),
        (EXAMPLE.replace("good, bad", "good"), "two texts"),
        (EXAMPLE.replace(", thoughts: [good, bad]", ""), "thoughts in every"),
        (EXAMPLE.replace("first: F", "first: ''"), "texts"),
    ],
)
def test_malformed_examples_are_refused(tmp_path, content, match):
    path = tmp_path / "ex.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=match):
        load_exemplars(str(path), 1, thoughts=True)


def test_a_prompt_without_a_needed_part_says_so():
    with pytest.raises(ValueError, match="--- reasoning.*chain of thought"):
        Layout(parse_prompt(GOOD, "v"), cot=True)


@pytest.mark.parametrize(
    ("options", "tie", "match"),
    [
        ("['1', '2', '3']", False, "two options"),
        ("['1', '2', '3', '4']", True, "two options"),
        ("['0', '1']", True, "stands for a tie"),
    ],
)
def test_options_that_would_be_read_as_a_tie_are_refused(options, tie, match):
    prompt = parse_prompt(PARTS.replace("[' a', ' b']", options), "v")
    with pytest.raises(ValueError, match=match):
        Layout(prompt, tie=tie)


def test_a_prompt_for_another_labeler_is_refused():
    with pytest.raises(ValueError, match="response"):
        load_prompt("summarization-base-1", SINGLE)
    assert load_prompt("summarization-base-1").fields == PAIR != PRINCIPLED


# The wording of a packaged prompt is fixed by its name: whoever changes it raises the number at the
# end of the name, and adds the new file here.
DIGESTS = {
    "constitution-1.txt": "8dffb27ff086",
    "exemplars-harmless-1.yaml": "b3d181d74e65",
    "exemplars-helpful-1.yaml": "7a66e7b30986",
    "exemplars-revision-1.yaml": "f69ff0a50424",
    "exemplars-summarization-1.yaml": "f8e18e34114d",
    "free_form-harmless-1.txt": "e3a9bfcff5bf",
    "free_form-helpful-1.txt": "220f114246c0",
    "free_form-summarization-1.txt": "33f87d2c3b73",
    "harmless-base-1.txt": "02e6c849b2b6",
    "harmless-detailed-1.txt": "4ebb64b372ab",
    "helpful-base-1.txt": "637e6bae4736",
    "helpful-detailed-1.txt": "1d3775a76cc0",
    "principles-1.yaml": "dcf314558e0b",
    "revision-1.yaml": "43883ef37a90",
    "revision-principles-1.yaml": "cb0ebf024f3e",
    "score-harmless-1.txt": "53e6f3c18049",
    "score-helpful-1.txt": "b2b81bf0cea3",
    "score-summarization-1.txt": "202a9207ec2d",
    "summarization-base-1.txt": "4a968b49f45e",
    "summarization-detailed-1.txt": "d782618182e9",
    "criteria-harmless-1.yaml": "d9a4ca3c5564",
    "criteria-helpful-1.yaml": "0e2e1b320c93",
    "criteria-summarization-1.yaml": "67e585450fab",
    "listwise-1.txt": "68288d7de6a6",
    "rubric-1.txt": "f9008c4e062f",
}


def test_packaged_files_have_not_changed_under_their_names():
    folder = files("rlaif_pl.labeling") / "prompts"
    found = {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()[:12]
        for entry in folder.iterdir()
        if entry.name.endswith((".txt", ".yaml"))
    }
    assert found == DIGESTS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_ones_own_file_may_have_a_mark_and_other_line_ends(tmp_path, encoding):
    text = "asks: better\n---\n{prompt}\n{first}\n{second}\nBetter:"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    plain, marked = (load_prompt(str(tmp_path / name)) for name in ("a.txt", "b.txt"))
    assert marked.parts == plain.parts
    assert marked.version[1:] == plain.version[1:]


def test_examples_that_are_no_yaml_are_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("- prompt: a: b\n")
    with pytest.raises(ValueError, match=r"expected mine-\w+ to be YAML, got.*needs quotes"):
        load_exemplars(str(tmp_path / "mine.yaml"), 1, thoughts=False)
