"""Lay a labeling prompt out: preamble, examples, sample, opening of the answer.

Examples are hand-written, versioned, in files of their own: a YAML list; each entry has ``prompt``,
``first``, ``second``, ``better`` (1 or 2) and, for chain of thought, ``thoughts`` with what to say
about the first and about the second response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlaif_pl.labeling.calls import Question
from rlaif_pl.labeling.prompting.templates import (
    LabelingPrompt,
    Opened,
    fill,
    opened,
    parse_yaml,
    read_versioned,
)
from rlaif_pl.text import filled, mark_data
from rlaif_pl.types import Preference

_REQUIRED = {"prompt", "first", "second", "better"}


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One example with its answer."""

    prompt: str  # what both responses reply to
    first: str  # response shown in the first slot
    second: str  # response shown in the second slot
    better: int  # slot (1 or 2) of the better response, whichever of them a prompt asks for
    # rationale on the first and on the second response, where there is one
    thoughts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ExemplarFile:
    """Examples of one file, with its version."""

    version: str
    exemplars: tuple[Exemplar, ...]

    def without(self, prompt: str, count: int) -> tuple[Exemplar, ...]:
        """Return the first ``count`` examples that are not about a given prompt.

        An example about the sample's own prompt would give its answer away; the next one takes its
        place, and where there is none, one fewer is shown.
        """
        own = _normal(prompt)
        return tuple(each for each in self.exemplars if _normal(each.prompt) != own)[:count]


def load_exemplars(name: str, shots: int, thoughts: bool) -> ExemplarFile:
    """Load examples by name or path. ``ValueError``: too few, no rationales, laid out otherwise."""
    content, version = read_versioned(name, ".yaml")
    rows = parse_yaml(content, version)
    if not isinstance(rows, list):
        raise ValueError(f"expected {version} to be a list of examples, got {type(rows).__name__}")
    exemplars = tuple(_exemplar(row, f"{version}, example {n}") for n, row in enumerate(rows, 1))
    if not 1 <= shots <= len(exemplars):
        raise ValueError(f"expected shots from 0 to {len(exemplars)} with {version}, got {shots}")
    silent = [n for n, each in enumerate(exemplars, 1) if each.thoughts is None]
    if thoughts and silent:
        raise ValueError(
            f"expected thoughts in every example of {version} for chain of thought, found none in "
            f"{silent}; add them or set cot to false"
        )
    return ExemplarFile(version, exemplars)


def _exemplar(row: object, where: str) -> Exemplar:
    if not isinstance(row, dict) or not _REQUIRED <= set(row) <= _REQUIRED | {"thoughts"}:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where}: expected {sorted(_REQUIRED)} and perhaps thoughts, got {got}")
    texts = [row[name] for name in ("prompt", "first", "second")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: expected prompt, first and second to be texts, got {texts}")
    if row["better"] not in (1, 2):
        raise ValueError(f"{where}: expected better to be 1 or 2, got {row['better']!r}")
    prompt, first, second = texts
    return Exemplar(prompt, first, second, row["better"], _thoughts(row.get("thoughts"), where))


def _thoughts(value: object, where: str) -> tuple[str, str] | None:
    if value is None:
        return None
    if not (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(each, str) and each.strip() for each in value)
    ):
        raise ValueError(f"{where}: expected thoughts to be two texts, got {value!r}")
    return (value[0].strip(), value[1].strip())


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


BLANK = "\n\n"
TIE = "0"
TIE_NOTE = f"If there is no difference between the two, the answer is {TIE}."


class PromptSample(NamedTuple):
    """What is to be judged, in the order in which it is shown."""

    prompt: str
    first: str
    second: str
    principle: str = ""

    def swapped(self) -> PromptSample:
        """Return the other order."""
        return self._replace(first=self.second, second=self.first)


Principle = Callable[[str, str, str], str]
"""Draws a principle for a prompt and two responses, the same for both orders."""


def no_principle(*_: str) -> str:
    """Return nothing, for prompts without principles."""
    return ""


def both_orders(
    pair: Preference, principle: Principle = no_principle
) -> tuple[PromptSample, PromptSample]:
    """Return a pair as given and swapped."""
    drawn = principle(pair.prompt, pair.first, pair.second)
    sample = PromptSample(pair.prompt, pair.first, pair.second, drawn)
    return sample, sample.swapped()


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples become questions."""

    prompt: LabelingPrompt  # the prompt file
    exemplars: ExemplarFile | None = None  # examples to choose from; None shows none
    shots: int = 0  # number of examples shown
    cot: bool = False  # a rationale is asked for first
    chat: bool = False  # questions go through the model's chat template
    principle: Principle = no_principle  # draws the examples' principles
    tie: bool = False  # a third answer says that there is no difference

    def __post_init__(self) -> None:
        options = self.prompt.options
        if "first" in self.prompt.fields and len(options) != 2:
            raise ValueError(
                f"expected two options in prompt {self.prompt.version}, for the first and the second "
                f"response, got {list(options)}; a third answer is set by tie"
            )
        if self.tie and TIE in map(str.strip, options):
            raise ValueError(
                f"expected options other than {TIE!r} in prompt {self.prompt.version}, which stands "
                f"for a tie, got {list(options)}; change them or leave tie out"
            )
        if self.cot:
            self.prompt.part("reasoning", "chain of thought")
        if self.shots:
            self.prompt.part("example", "examples")
            self.prompt.part("after examples", "examples")
        if self.cot and self.shots:
            self.prompt.part("thoughts", "chain of thought with examples")

    @property
    def version(self) -> str:
        """Version of everything that is laid out."""
        version = self.prompt.version
        if self.exemplars is not None and self.shots:
            version += f"+shots={self.shots}:{self.exemplars.version}"
        if self.cot:
            version += "+cot=few_shot" if self.shots else "+cot=zero_shot"
        return version + "+tie" * self.tie + "+chat" * self.chat

    @property
    def options(self) -> tuple[str, ...]:
        """What may be answered: slot 1, slot 2, and where there are ties, neither."""
        options = self.prompt.options
        space = " " * options[0].startswith(" ")
        return (*options, space + TIE) if self.tie else options

    def verdict(self, sample: PromptSample) -> Question:
        """Return the question whose answer is the verdict, asked without a rationale."""
        return self._question(Opened(self._text(sample), self.prompt.gap, self.prompt.ending))

    def reasoning(self, sample: PromptSample) -> Question:
        """Return the question whose answer is a rationale."""
        return self._question(self._request(self._text(sample)))

    def verdict_after(self, sample: PromptSample, rationale: str) -> Question:
        """Return the question for the verdict after a rationale, begun as ``reasoning(sample)``."""
        request = self._request(self._text(sample))
        said = rationale.rstrip()
        space = "" if said[:1].isspace() else " "
        assistant_prefix = (
            request.assistant_prefix + space + mark_data(said) + BLANK + self.prompt.ending
        )
        return self._question(request._replace(assistant_prefix=assistant_prefix))

    @property
    def stops(self) -> tuple[str, ...]:
        """Where a rationale ends: a model that goes on to the verdict or another example."""
        marks = [self.prompt.ending]
        if self.shots:
            marks += [self.prompt.parts["example"], self.prompt.parts["after examples"]]
        return tuple(marks)

    def _question(self, request: Opened) -> Question:
        """Make the question: in chats the opening begins the answer, without a gap."""
        text, gap, assistant_prefix = request
        asked = filled(text if self.chat else text + gap)
        return Question(asked, filled(assistant_prefix), self.chat)

    def _request(self, body: str) -> Opened:
        """Ask for a rationale; after examples it begins like theirs (2309.00267, table 18)."""
        if self.shots:
            thoughts = self.prompt.parts["thoughts"]
            return Opened(body, BLANK, thoughts[: thoughts.index("{first}")].rstrip())
        asked, gap, assistant_prefix = opened(self.prompt.parts["reasoning"])
        if not asked:
            return Opened(body, BLANK, assistant_prefix)
        return Opened(body + BLANK + asked, gap, assistant_prefix)

    def _text(self, sample: PromptSample) -> str:
        """Return everything up to the end of the sample, marked."""
        parts = self.prompt.parts
        preamble = parts.get("preamble", "")
        if self.cot:
            preamble = parts.get("reasoning preamble", preamble)
        shown = [preamble] if preamble else []
        if self.exemplars is not None and self.shots:
            chosen = self.exemplars.without(sample.prompt, self.shots)
            shown += [self._example(each) for each in chosen]
            shown += [parts["after examples"]] * bool(chosen)
        shown += [self._sample(sample)] + [TIE_NOTE] * self.tie
        return BLANK.join(shown)

    def _sample(self, sample: PromptSample) -> str:
        values = {"response": sample.first, **sample._asdict()}
        return fill(self.prompt.parts["sample"], values)

    def _example(self, exemplar: Exemplar) -> str:
        texts = (exemplar.prompt, exemplar.first, exemplar.second)
        shown = [self.prompt.parts["example"]]
        shown.append(self._sample(PromptSample(*texts, self.principle(*texts))))
        if self.cot and exemplar.thoughts is not None:
            values = dict(zip(("first", "second"), exemplar.thoughts, strict=True))
            shown.append(fill(self.prompt.parts["thoughts"], values))
        named = exemplar.better if not self.prompt.asks_worse else 3 - exemplar.better
        shown.append(self.prompt.ending + self.prompt.options[named - 1])
        return BLANK.join(shown)
