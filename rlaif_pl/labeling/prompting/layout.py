"""Lay a labeling prompt out: preamble, examples, sample, opening of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rlaif_pl.labeling.calls import Question
from rlaif_pl.labeling.prompting import templates
from rlaif_pl.labeling.prompting.templates import BLANK, LabelingPrompt, Opened, is_texts
from rlaif_pl.text import mark_data
from rlaif_pl.types import Preference

_REQUIRED = {"prompt", "first", "second", "better"}


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One example with its answer."""

    prompt: str
    first: str
    second: str
    better: int  # slot (1 or 2) of the better response, whichever of them a prompt asks for
    # rationale on the first and on the second response, where there is one
    thoughts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ExemplarFile:
    """Examples of one file, with its version."""

    version: str
    exemplars: tuple[Exemplar, ...]

    def without(self, prompt: str, count: int) -> tuple[Exemplar, ...]:
        """Return the first ``count`` examples but those about a prompt, which give its answer away."""
        own = _normal(prompt)
        return tuple(each for each in self.exemplars if _normal(each.prompt) != own)[:count]


def load_exemplars(name: str, shots: int, thoughts: bool) -> ExemplarFile | None:
    """Load examples by name or path, none for no shots. ``ValueError``: too few, or no ``thoughts``."""
    if not shots:
        return None
    content, version = templates.read_versioned(name, ".yaml")
    rows = templates.parse_yaml(content, version)
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
    if not is_texts(texts):
        raise ValueError(f"{where}: expected prompt, first and second to be texts, got {texts}")
    if row["better"] not in (1, 2):
        raise ValueError(f"{where}: expected better to be 1 or 2, got {row['better']!r}")
    said = row.get("thoughts")
    if said is not None and not (is_texts(said) and len(said) == 2):
        raise ValueError(f"{where}: expected thoughts to be two texts, got {said!r}")
    thoughts = None if said is None else (said[0].strip(), said[1].strip())
    prompt, first, second = texts
    return Exemplar(prompt, first, second, row["better"], thoughts)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


TIE = "0"
TIE_NOTE = f"If there is no difference between the two, the answer is {TIE}."


class PromptSample(NamedTuple):
    """What is to be judged, in the order in which it is shown."""

    prompt: str
    first: str
    second: str
    principle: str = ""


def no_principle(*_: str) -> str:
    """Return nothing; no lambda, since labelers are pickled for processes that are spawned."""
    return ""


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples become questions."""

    prompt: LabelingPrompt  # the prompt file
    exemplars: ExemplarFile | None = None  # examples to choose from; None shows none
    shots: int = 0  # number of examples shown
    cot: bool = False  # a rationale is asked for first
    chat: bool = False  # questions go through the model's chat template
    # draws the principle for a prompt and two responses, the same for both orders
    principle: Callable[[str, str, str], str] = no_principle
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

    def both_orders(self, pair: Preference) -> tuple[PromptSample, PromptSample]:
        """Return a pair as given and swapped, with its principle."""
        texts = (pair.prompt, pair.first, pair.second)
        sample = PromptSample(*texts, self.principle(*texts))
        return sample, sample._replace(first=pair.second, second=pair.first)

    def verdict(self, sample: PromptSample) -> Question:
        """Return the question whose answer is the verdict, asked without a rationale."""
        request = Opened(self._text(sample), self.prompt.gap, self.prompt.ending)
        return request.question(self.chat)

    def reasoning(self, sample: PromptSample) -> Question:
        """Return the question whose answer is a rationale."""
        return self._request(sample).question(self.chat)

    def verdict_after(self, sample: PromptSample, rationale: str) -> Question:
        """Return the question for the verdict after a rationale, begun as ``reasoning(sample)``."""
        request, said = self._request(sample), rationale.rstrip()
        space = "" if said[:1].isspace() else " "
        begun = request.assistant_prefix + space + mark_data(said) + BLANK + self.prompt.ending
        return request._replace(assistant_prefix=begun).question(self.chat)

    @property
    def stops(self) -> tuple[str, ...]:
        """Where a rationale ends: a model that goes on to the verdict or another example."""
        names = ("ending", *(("example", "after examples") if self.shots else ()))
        return tuple(self.prompt.parts[name] for name in names)

    def _request(self, sample: PromptSample) -> Opened:
        """Ask for a rationale; after examples it begins like theirs (2309.00267, table 18)."""
        body = self._text(sample)
        if self.shots:
            thoughts = self.prompt.parts["thoughts"]
            return Opened(body, BLANK, thoughts[: thoughts.index("{first}")].rstrip())
        asked, gap, assistant_prefix = templates.opened(self.prompt.parts["reasoning"])
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
        shown += [self.prompt.filled("sample", **sample._asdict())] + [TIE_NOTE] * self.tie
        return BLANK.join(shown)

    def _example(self, exemplar: Exemplar) -> str:
        texts = (exemplar.prompt, exemplar.first, exemplar.second)
        sample = PromptSample(*texts, self.principle(*texts))
        shown = [self.prompt.parts["example"], self.prompt.filled("sample", **sample._asdict())]
        if self.cot and exemplar.thoughts is not None:
            first, second = exemplar.thoughts
            shown.append(self.prompt.filled("thoughts", first=first, second=second))
        named = exemplar.better if not self.prompt.asks_worse else 3 - exemplar.better
        shown.append(self.prompt.ending + self.prompt.options[named - 1])
        return BLANK.join(shown)
