import pytest

from rlaif_pl.labeling.templates import load_prompt, parse_prompt, prompt_names

GOOD = "asks: better\n---\nT - {prompt}\n1 - {first}\n2 - {second}\n\nBest="


@pytest.mark.parametrize("name", prompt_names())
def test_every_packaged_prompt_is_well_formed(name):
    prompt = load_prompt(name)
    text = prompt.render("PPP", "AAA", "BBB")
    assert text.index("PPP") < text.index("AAA") < text.index("BBB")
    assert text.endswith(prompt.ending)
    assert prompt.ending.endswith("=")
    assert prompt.version == name
    assert name[-1].isdigit()


def test_only_the_harmless_prompt_asks_for_the_worse():
    assert [name for name in prompt_names() if load_prompt(name).asks_worse] == ["harmless-base-1"]


def test_summarization_layout_follows_the_paper():
    text = load_prompt("summarization-base-1").render(" post ", "one", "two")
    assert text.endswith("\n\nText - post\nSummary 1 - one\nSummary 2 - two\n\nPreferred Summary=")


def test_braces_in_texts_are_left_alone():
    text = parse_prompt(GOOD, "v").render("{first}", "{second}", "{x}")
    assert text == "T - {first}\n1 - {second}\n2 - {x}\n\nBest="


def test_ones_own_file_is_versioned_by_its_content(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(GOOD)
    first = load_prompt(str(path))
    path.write_text(GOOD + " ")
    second = load_prompt(str(path))
    assert first.version.startswith("mine-")
    assert first.version != second.version
    assert first.text == second.text  # white space at the end would change the verdict's token


def test_an_unknown_prompt_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="summarization-base-1"):
        load_prompt("summarisation")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (GOOD.replace("asks: better\n---\n", ""), "begin with"),
        (GOOD.replace("better", "best"), "begin with"),
        (GOOD.replace("{second}", ""), "once"),
        (GOOD.replace("Best=", "{first}"), "once"),
        ("asks: better\n---\n{prompt}\n{first} {second}", "end in a line"),
    ],
)
def test_a_malformed_file_is_refused(content, match):
    with pytest.raises(ValueError, match=match):
        parse_prompt(content, "v")
