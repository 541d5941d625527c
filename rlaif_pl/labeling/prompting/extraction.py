"""Read which response a written answer names, by the rules that ``prompts/README.md`` lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from rlaif_pl.labeling.thinking import answer_of

Verdict = Literal[
    "first", "second", "tie", "both", "neither", "refused", "malformed", "empty", "unclosed_thought"
]
Named = Literal["first", "second"]

_NOUN = (
    r"(?:summary|response|answer|option|candidate|reply|choice|text|version|assistant|number|no\.)"
)
_ORDINAL = rf"(?:the\s+)?(?P<{{0}}o>first|second|former|latter|1st|2nd)(?:\s+(?:one|{_NOUN}))?\b"
_LABEL = rf"(?:the\s+)?{_NOUN}\s*(?:#\s*)?[(\[]?(?P<{{0}}l>[12]|[ab]|one|two)\b[)\]]?"
_BARE = r"[(\[]?(?P<{0}b>[12]|(?-i:[AB]))\b[)\]]?"
_SECOND = frozenset({"second", "latter", "2nd", "2", "b", "two"})


def _ref(name: str, *, bare: bool) -> str:
    """Pattern of a response's name; ``bare`` admits a digit or capital letter alone."""
    kinds = [_ORDINAL, _LABEL] + [_BARE] * bare
    return "(?:" + "|".join(kind.replace("{0}", name) for kind in kinds) + ")"


@lru_cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_DEGREE_WORDS = (
    r"clearly|much|far|slightly|somewhat|a\s+bit|a\s+little|definitely|overall|also|the|by\s+far|"
    r"significantly|generally|probably|considered|judged|rated|a|an|i\s+think"
)
_IS = (
    r"\s*,?\s+(?:is|was|seems|appears|looks|would\s+be|does|reads)(?:\s+to\s+be)?\s+"
    rf"(?:(?:{_DEGREE_WORDS})[\s,]+)*"
)
_GOOD = r"(?:better|best|preferred|preferable|superior|stronger|strongest|winner|safer|safest)"
_BAD = r"(?:worse|worst|inferior|weaker|weakest|poorer)"
_NOTHING = r"(?!)"  # matches nowhere
_HARMFUL = r"(?:\w+\s+)?(?:harmful|dangerous|offensive|problematic|unsafe)"
_HARM = rf"(?:(?:more|most)\s+{_HARMFUL}|harmful\s+one)"
_SAFE = rf"(?:(?:less|least)\s+{_HARMFUL})"
_QUALITY = (
    r"more\s+(?:\w+\s+)?(?:helpful|honest|accurate|useful|complete|coherent|concise|informative|"
    r"relevant|faithful|clear|detailed|comprehensive|precise|effective|engaging|convincing|thorough|"
    r"balanced|truthful|readable|appropriate|polite|respectful)"
)

_WHOLE = _compile(rf"(?:it\s+is\s+|it's\s+)?{_ref('x', bare=True)}")
_LEADING = _compile(rf"\s*{_ref('x', bare=True)}\s*(?:,|\n|because\b|since\b|as\s+it\b)")
_LINE = _compile(rf"^\s*{_ref('x', bare=True)}")
# What is stated: an answer (whatever was asked), the good one, or the bad one.
_ANSWER = (
    r"preferred|preference|verdict|judge?ment|decision|choice|winner|conclusion|(?:final\s+)?answer"
)
_STATED = (
    r"\b(?:{how})"
    rf"(?:\s+(?:one|{_NOUN}))?(?:\s+overall)?(?:\s+here)?\s*(?:\s+(?:is|would\s+be)\s*[:,]?|[:=]|-)\s*"
    + _ref("x", bare=True)
)
_CHOSEN = (
    _compile(
        r"\b(?:i|we)(?:'d|\s+would|\s+will|'ll)?\s+(?:\w+ly\s+)?"
        r"(?:prefer|choose|chose|pick|select|favou?r|go\s+(?:with|for)|vote\s+for|opt\s+for)\s+"
        + _ref("x", bare=True)
    ),
    _compile(_ref("x", bare=False) + r"\s+wins\b"),
)
_COMPARED = _ref("x", bare=True) + _IS + r"(?:{how})\b"
_NOT_AS_GOOD = _compile(
    _ref("x", bare=True)
    + r"\s+(?:is|was)(?:\s+not|n't)\s+(?:quite\s+)?(?:as|so)\s+(?P<how>\w+)\s+as\s+"
    + _ref("y", bare=True)
)
_NEGATION = _compile(
    r"\b(?:not|never|neither|nor|cannot|hardly|nothing|none|no\s+better|whether|which)\b|n't\b"
    r"|\bwould\s+(?:be|have\s+been)\b.*\b(?:if|had\s+(?:it|they))\b"  # it is not
)
_CONCLUDING = _compile(
    r"\b(?:overall|in\s+conclusion|therefore|thus|hence|in\s+the\s+end|ultimately|on\s+balance|"
    r"in\s+summary|in\s+short|all\s+in\s+all|so)\b"
)
_CLAUSE = _compile(
    r"(?<=[.!])\s+|(?<=\?)|\n+|;|,?\s+(?:but|however|although|though|while|whereas|yet)\b[,\s]"
    r"|^\s*(?:while|although|though)\b|,\s+(?=overall\b|in\s+the\s+end\b|on\s+balance\b|ultimately\b)"
)
_REFUSED = _compile(
    r"\b(?:(?:can\s?not|can't|could\s+not|couldn't|unable\s+to|won't|will\s+not|not\s+able\s+to|"
    r"not\s+comfortable|refuse\s+to|decline\s+to|not\s+appropriate)\b|i(?:'m|\s+am)\s+sorry|"
    r"i\s+apologi[sz]e|as\s+an\s+ai\b)"
)
_TIE = _compile(
    r"\b(?:tie[ds]?|equal(?:ly)?|identical|on\s+par|no\s+(?:real\s+|clear\s+)?difference|"
    r"(?:about|much)\s+the\s+same|the\s+same\s+quality|just\s+as\s+\w+\s+as|indistinguishable)\b"
)
_BOTH = _compile(r"\b(?:both|either)\b")
_NEITHER = _compile(r"\b(?:neither|none\s+of|nor)\b")
_NO_VERB = (
    r"as|across|always|based|besides|compared|indeed|its|less|perhaps|plus|preferred|thanks|this|"
    r"unless|versus|vs"
)
# A reply that begins with a name and goes on with a verb, or with the other name, is no continuation.
_SENTENCE = _compile(
    rf"{_ref('x', bare=True)}\s+(?:\w+ly\s+)?(?:(?P<be>is|was|seems|appears|looks)|"
    r"would|could|should|can|may|might|will|did|had|"
    rf"(?!(?:{_NO_VERB})\b)\w+(?:s|ed))\b"
)
_TOGETHER = _compile(rf"{_ref('x', bare=True)}\s+(?:and|or)\s+{_ref('y', bare=True)}")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})


def extract_verdict(text: str, asks_worse: bool = False) -> Verdict:
    """Read which response an answer names, or why it names none.

    ``asks_worse``: the question was which response is worse or more harmful, so "response 1 is more
    harmful" names the first, "response 1 is safer" the second.
    """
    answer = answer_of(text)
    if answer is None:
        return "unclosed_thought"
    plain = _plain(answer)
    if not plain:
        return "empty"
    for votes in _rules(plain, asks_worse):
        if votes:
            return votes.pop() if len(votes) == 1 else "malformed"
    return _without_verdict(plain)


def continued_verdict(opening: str, text: str, asks_worse: bool = False) -> Verdict:
    """Read a reply to a text that ends in ``opening`` ("The better one is").

    " Summary 2, it is short" goes on from there. "Summary 2 is worse." and "Summary 2 omits it." are
    sentences of their own: what they say alone counts, unless a name that begins with a space goes on.
    """
    if not text.strip():
        return "empty"
    alone = extract_verdict(text, asks_worse)
    answer = answer_of(text) or ""
    begin = _plain(answer)
    if _TOGETHER.match(begin):
        return alone
    sentence = _SENTENCE.match(begin)
    if sentence and (alone in ("first", "second") or (alone == "tie" and sentence["be"])):
        return alone
    if sentence and not answer.startswith(" "):
        # "covers both equally" is no tie, "covers both events" does not take both
        says_so = sentence["be"] or alone not in ("tie", "both", "neither")
        return alone if says_so else "malformed"
    return extract_verdict(f"{opening} {text.strip()}", asks_worse)


def _plain(answer: str) -> str:
    """Return an answer without marks of emphasis, its quotes and dashes in ASCII."""
    return re.sub(r"[*_`#>\"]+", "", answer.translate(_QUOTES)).strip()


def _rules(text: str, asks_worse: bool) -> Iterator[set[Named]]:
    """Votes of each rule, the strongest rule first."""
    whole = _WHOLE.fullmatch(text.strip(" \t\n.!:'"))
    yield {_named(whole)} if whole else set()
    clauses = [part for part in _CLAUSE.split(text) if part and part.strip()]
    clauses = [part for part in clauses if not part.rstrip().endswith("?")]
    sober = [part for part in clauses if not _NEGATION.search(part)]
    up, down = (f"{_HARM}|{_BAD}", f"{_SAFE}|{_GOOD}") if asks_worse else (_GOOD, _BAD)
    chosen = {_named(match) for each in sober for kind in _CHOSEN for match in kind.finditer(each)}
    yield chosen | _votes(_STATED, f"{_ANSWER}|{up}", down, sober) | _leading(text)
    concluding = [part for part in clauses if _CONCLUDING.search(part)]
    for part in (concluding, clauses):
        compared = _votes(_COMPARED, up, down, [each for each in part if each in sober])
        yield compared | _not_as_good(part, asks_worse)
    better, worse = (_NOTHING, _QUALITY) if asks_worse else (_QUALITY, _NOTHING)
    yield _votes(_COMPARED, better, worse, sober)


def _votes(pattern: str, up: str, down: str, clauses: list[str]) -> set[Named]:
    """Votes of clauses for whom they name with words of ``up``, against whom with those of ``down``."""
    for_it = {_named(match) for each in clauses for match in _matches(pattern, up, each)}
    against = {_other(_named(match)) for each in clauses for match in _matches(pattern, down, each)}
    return for_it | against


def _not_as_good(clauses: list[str], asks_worse: bool) -> set[Named]:
    votes: set[Named] = set()
    for match in (match for each in clauses for match in _NOT_AS_GOOD.finditer(each)):
        harm = match["how"].lower() in ("harmful", "dangerous", "offensive", "bad")
        votes.add(_named(match, "y" if harm == asks_worse else "x"))
    return votes


def _leading(text: str) -> set[Named]:
    """Vote of a name that begins the answer, unless a later line begins with the other one."""
    match = _LEADING.match(text)
    lines = [_named(found) for line in text.splitlines() if (found := _LINE.match(line))]
    return {_named(match)} if match and len(set(lines)) == 1 else set()


def _matches(pattern: str, how: str, clause: str) -> Iterator[re.Match[str]]:
    return _compile(pattern.replace("{how}", how)).finditer(clause)


def _named(match: re.Match[str], name: str = "x") -> Named:
    found = next(
        value for kind in "olb" if (value := match.groupdict().get(name + kind)) is not None
    )
    return "second" if found.lower() in _SECOND else "first"


def _other(named: Named) -> Named:
    return "second" if named == "first" else "first"


def _without_verdict(text: str) -> Verdict:
    if _REFUSED.search(text):
        return "refused"
    if _NEITHER.search(text):
        return "neither"
    if _TIE.search(text):
        return "tie"
    return "both" if _BOTH.search(text) else "malformed"
