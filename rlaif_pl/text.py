"""Templates and plain measures of text; no model, no file, no state."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

# Scripts written without spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{NO_SPACES}]")
SPACED = re.compile(rf"[{NO_SPACES}]|[^\s{NO_SPACES}]+")  # words, or characters of such a script
WORD = re.compile(r"[\w']+")
TOKEN = re.compile(r"\w+|[^\w\s]")
DOUBLED = frozenset({"that", "had", "very", "really", "no", "so"})  # words that may be said twice
REPETITIVE = 0.1  # share of repeated 3-grams
_DIGEST = re.compile(r"([0-9a-f]{8})[0-9a-f]{8,}.*")  # and what follows it: settings
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # in JSON: may be half a character
_HALVES = re.compile("[\ud800-\udfff]")
MOST_SHOWN = 60  # characters of a wrong value that a message repeats
LONGEST_WORD = 20  # characters of a text that a message repeats: a label, a role, a name
DATA_BEGIN, DATA_END = "\ufdd0", "\ufdd1"  # noncharacters, which are in no text
_DATA = re.compile(f"{DATA_BEGIN}([^{DATA_BEGIN}{DATA_END}]*){DATA_END}|[{DATA_BEGIN}{DATA_END}]")


class FilledText(str):
    """A template with data filled in that knows where the data stands.

    A tokenizer's control tokens are control tokens in the template, and text in the data; see
    ``rlaif_pl.models.control_tokens``. Equal to the plain string; of its operations ``+`` alone keeps
    the places: ``data`` has begin and end, in characters, of each part that came from data, in order.
    """

    data: tuple[tuple[int, int], ...]

    def __new__(cls, text: str, data: tuple[tuple[int, int], ...] = ()) -> FilledText:
        """Make the string."""
        made = super().__new__(cls, text)
        made.data = data
        return made

    def __add__(self, other: str) -> FilledText:
        after = other.data if isinstance(other, FilledText) else ()  # others are templates
        moved = tuple((begin + len(self), end + len(self)) for begin, end in after)
        return FilledText(str(self) + str(other), self.data + moved)


def mark_data(text: str) -> str:
    """Put marks around data that goes into a template; ``filled`` reads them."""
    bare = text.replace(DATA_BEGIN, "").replace(DATA_END, "")
    return f"{DATA_BEGIN}{bare}{DATA_END}"


def filled(marked: str) -> FilledText:
    """Take the marks out of a filled template; a mark without its other half is dropped."""
    parts: list[str] = []
    data: list[tuple[int, int]] = []
    place = length = 0
    for match in _DATA.finditer(marked):
        begin = length + match.start() - place
        parts += [marked[place : match.start()], match[1] or ""]
        place, length = match.end(), begin + len(match[1] or "")
        if match[1]:
            data.append((begin, length))
    return FilledText("".join([*parts, marked[place:]]), tuple(data))


TLDR = "POST: {prompt}\n\nTL;DR:"  # how prompts are written by default


@dataclass(frozen=True)
class Template:
    """How a prompt is shown to a policy and how a response continues it.

    Attributes:
        prompt: Text with one ``{prompt}``; must not end in a space, which would change the first
            token of the response. With ``chat`` what a user says, by default the prompt as it is.
        response: Text with one ``{response}``, put right after the rendered prompt. With ``chat`` the
            chat template has it.
        max_prompt_words: Longer prompts are cut after this many words, of a conversation each turn;
            None keeps them whole.
        chat: Write texts by the chat template of the model's tokenizer: a conversation turn by turn,
            any other prompt as what a user says, a response as the assistant's turn with the token
            that ends it.
        system: With ``chat`` the system prompt of conversations that have none.
        chat_template_kwargs: With ``chat`` variables of the chat template. Thoughts are switched off
            (``enable_thinking``, ``thinking``) unless they are named here.
    """

    prompt: str = TLDR
    response: str = " {response}"
    max_prompt_words: int | None = None
    chat: bool = False
    system: str | None = None
    chat_template_kwargs: dict[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.chat:
            self._check_chat()
        elif self.system is not None or self.chat_template_kwargs is not None:
            raise ValueError(
                "expected template.system and template.chat_template_kwargs only with "
                "template.chat: true, got chat: false; set it, or write the system prompt into "
                "template.prompt"
            )
        for name, text in (("prompt", self.prompt), ("response", self.response)):
            if text.count("{" + name + "}") != 1:
                raise ValueError(
                    f"template.{name} must contain {{{name}}} exactly once, got {text!r}"
                )
        if self.prompt.endswith(" "):
            raise ValueError(
                "template.prompt ends in a space, which changes the first response token; "
                f"move the space to template.response, got {self.prompt!r}"
            )
        refuse_spelled_breaks("template.prompt", self.prompt)
        refuse_spelled_breaks("template.response", self.response)
        if self.max_prompt_words is not None and self.max_prompt_words < 1:
            raise ValueError(
                "template.max_prompt_words must be at least 1, or null for whole prompts, got "
                f"{self.max_prompt_words}"
            )

    def _check_chat(self) -> None:
        """Let the chat template alone frame a text, where no other frame is given."""
        if self.prompt == TLDR:  # the default is for models that only continue a text
            object.__setattr__(self, "prompt", "{prompt}")
        if self.response.strip() != "{response}":
            raise ValueError(
                "expected no template.response with template.chat: true, as the chat template frames "
                f"the assistant's turn, got {self.response!r}; leave it out"
            )
        object.__setattr__(self, "response", "{response}")

    def cut(self, prompt: str) -> str:
        """Return the prompt, cut where it is too long."""
        most = self.max_prompt_words
        return prompt if most is None else truncate_words(prompt, most)

    def render(self, prompt: str) -> FilledText:
        """Return the prompt as the policy reads it; for ``chat`` see ``models.chat_format``."""
        return filled(self.prompt.replace("{prompt}", mark_data(self.cut(prompt))))

    def continuation(self, response: str) -> FilledText:
        """Return the response as it follows the rendered prompt."""
        return filled(self.response.replace("{response}", mark_data(response.strip())))


def refuse_spelled_breaks(name: str, *texts: str) -> None:
    r"""Refuse (ValueError) texts that spell line breaks as a backslash and an n, as shells do ``'\n'``.

    A text that has a real one as well means what it says (``\neq``).
    """
    for text in texts:
        if "\\n" in text and "\n" not in text:
            typed = text.replace("'", "\\'")
            raise ValueError(
                f"expected line breaks in {name}, got a backslash and an n: {text}; write $'{typed}' "
                "in a shell, double quotes instead of single ones in YAML"
            )


TITLE = re.compile(r"^TITLE:[ \t]*(.+)$", re.MULTILINE)


def titled(post: str, title: str, subreddit: str) -> str:
    """Return a post under its subreddit and title, in the order of arXiv 2009.01325."""
    return f"SUBREDDIT: r/{subreddit}\nTITLE: {title.strip()}\nPOST: {post}"


def title_of(prompt: str) -> str | None:
    """Return what stands after the first "TITLE:" that begins a line, or None."""
    found = TITLE.search(prompt)
    return found[1].strip() if found else None


def truncate_words(text: str, limit: int) -> str:
    """Cut after ``limit`` words, as ``word_count`` counts, keeping the white space between them."""
    ends = [match.end() for match in SPACED.finditer(text)]
    return text if len(ends) <= limit else text[: ends[limit - 1]]


def word_count(text: str) -> int:
    """Count whitespace-separated words; where a script has no spaces each character counts."""
    return len(SPACED.findall(text))


def concealed(text: str) -> str:
    """Return what stands for a text that is not to be shown: part of a hash, equal for equal texts."""
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"[{digest}, {word_count(text)} words, not shown]"


def strip_surplus_symbols(text: str) -> str:
    """Drop runs of full stops and white space at the end, keeping one full stop.

    RL policies learn to append them; judges see texts without (arXiv 2309.00267, appendix E).
    """
    stripped = re.sub(r"[\s.]+$", "", text)
    return stripped + "." if re.search(r"\.", text[len(stripped) :]) else stripped


@cache
def _marked() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """``WORD`` and ``TOKEN`` for all scripts: accents and vowel signs belong to their letter."""
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M")
    spaced = f"(?![{NO_SPACES}])"
    word = re.compile(rf"[{NO_SPACES}]|{spaced}[\w'](?:{spaced}[\w'{marks}])*")
    return word, re.compile(rf"\w[\w{marks}]*|[^\w\s]")


def words(text: str) -> list[str]:
    """Return words without case or punctuation; where a script has no spaces, each character."""
    if text.isascii():
        return WORD.findall(text.lower())
    return _marked()[0].findall(unicodedata.normalize("NFC", text.lower()))


def _ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def copied_ngrams(response: str, prompt: str, n: int = 4) -> float:
    """Share of the response's word n-grams that stand in the prompt, in [0, 1].

    Words are compared without case or punctuation; a response shorter than ``n`` words gives 0.
    """
    said, read = (_ngrams(words(text), n) for text in (response, prompt))
    known = set(read)
    return sum(gram in known for gram in said) / len(said) if said else 0.0


def shared_ngrams(responses: Sequence[Sequence[str]], n: int = 4) -> list[list[float]]:
    """Share of each response's word n-grams that a response to another prompt has too, in [0, 1].

    It rises where a policy ends every response in one phrase, which no measure of a single text sees
    (as self-BLEU does, Zhu et al. 2018, arXiv 1802.01886). Compare it at equal numbers of prompts.
    A response shorter than ``n`` words gives 0; case and punctuation do not count.
    """
    grams = [[_ngrams(words(text), n) for text in texts] for texts in responses]
    prompts = Counter(gram for texts in grams for gram in {gram for own in texts for gram in own})
    return [
        [sum(prompts[gram] > 1 for gram in own) / len(own) if own else 0.0 for own in texts]
        for texts in grams
    ]


def repeated_ngrams(text: str, n: int = 3) -> float:
    """Share of n-grams that stood in the text before, in [0, 1).

    ``1 - distinct / all`` (seq-rep-n of Welleck et al. 2020, arXiv 1908.04319, section 6.1), over words
    and single symbols without case, so that a row of full stops is repetition too. A text shorter
    than ``n`` gives 0.
    """
    pattern = TOKEN if text.isascii() else _marked()[1]
    grams = _ngrams(pattern.findall(unicodedata.normalize("NFC", text.lower())), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_repetitive(text: str) -> bool:
    """Tell whether a text stammers: a word twice in a row, or a tenth of its 3-grams said before."""
    # characters of a script without spaces are doubled within words
    doubled = any(
        a == b and a not in DOUBLED and not UNSPACED.match(a) for a, b in pairwise(words(text))
    )
    return doubled or repeated_ngrams(text) > REPETITIVE


def whole_characters(value: Any) -> Any:
    r"""Return text, or plain lists and mappings of it, with halves of surrogate pairs mended.

    JSON and YAML can spell one half of a character beyond U+FFFF (``\ud83d``), which no encoding can
    write. Two halves that belong together become their character, a lone one becomes U+FFFD.
    """
    if isinstance(value, str):
        if value.isascii() or not _HALVES.search(value):
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_characters(item) for item in value]
    return value


def parse_json(text: str) -> Any:
    """Parse JSON whose texts can be written again (``whole_characters``); ``JSONDecodeError``: none."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", text, 0) from error
    return whole_characters(found) if _HALF_ESCAPE.search(text) else found


def shown(value: object) -> str:
    """Return how a message names a wrong value: a word or number as it is; the rest by its kind.

    Texts may be private, and messages end in logs.
    """
    if isinstance(value, Mapping):
        names = ", ".join(sorted(map(str, value)))
        return f"an object of {names[:MOST_SHOWN]}" if names else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if not isinstance(value, str):
        return str(value)[:MOST_SHOWN]
    is_word = len(value) <= LONGEST_WORD and len(value.split()) <= 2  # "tie (bothbad)"
    return repr(value) if is_word else f"a text of {len(value):,} characters"


def judge_name(fingerprint: str) -> str:
    """Return what a table calls a judge: strategy and model of its fingerprint, digests cut short."""
    kind, *settings = fingerprint.split(";")
    if kind == "ensemble":
        return kind
    model = settings[0].split(",")[0] if settings else ""
    return _DIGEST.sub(r"\1", f"{kind}, {model}" if model else kind)
