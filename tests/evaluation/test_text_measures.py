"""Measures of texts: words of scripts with vowel signs, with accents apart, and without spaces."""

import unicodedata

from rlaif_pl.text import (
    copied_ngrams,
    is_repetitive,
    shared_ngrams,
    truncate_words,
    word_count,
    words,
)


def test_vowel_signs_and_accents_belong_to_their_letter():
    hindi = "मेरे काका कल शाम को घर आए"
    assert words(hindi) == hindi.split()
    assert not is_repetitive(hindi)
    assert is_repetitive("काका काका आए")
    apart = unicodedata.normalize("NFD", "Réré trouve le café froid")
    assert words(apart) == ["réré", "trouve", "le", "café", "froid"]
    assert not is_repetitive(apart)
    assert copied_ngrams(apart, "réré trouve le café") == 0.5


def test_characters_count_where_a_script_has_no_spaces():
    chinese = "我的朋友总是迟到"
    assert (word_count(chinese), word_count(f"{chinese} is late")) == (8, 10)
    assert copied_ngrams(chinese, f"帖子{chinese}谢谢") == 1.0
    assert shared_ngrams([[chinese], [f"因为{chinese}"]])[0] == [1.0]
    assert not is_repetitive("谢谢你妈妈")  # doubled characters are words of their own


def test_a_text_is_cut_after_words_as_they_are_counted():
    assert truncate_words("今天天气很好", 3) == "今天天"
    assert truncate_words("a  b\nc d", 3) == "a  b\nc"


def test_latin_words_are_as_ever():
    assert words("It’s a NAÏVE — café; x_y don't") == [
        "it",
        "s",
        "a",
        "naïve",
        "café",
        "x_y",
        "don't",
    ]
    assert word_count(" two\u00a0words \n") == 2
