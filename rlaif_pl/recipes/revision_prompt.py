"""What a model is asked when it answers, criticizes its answer and revises it.

Layout of arXiv 2212.08073, section 3.1 and appendix A: examples, the conversation with the last reply,
critique request, critique, revision request, revision (the reply of a further round).
The wording is this project's own, in files of ``labeling/prompts`` that people can replace.
"""

from __future__ import annotations

import hashlib
import json
import os.path
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from rlaif_pl.labeling.calls import Question
from rlaif_pl.labeling.prompting.templates import parse_yaml, read_versioned
from rlaif_pl.text import filled, mark_data

BLANK = "\n\n"
LABELS = ("critique request", "critique", "revision request", "revision")
KEYS = ("answer preamble", "preamble", "example", "after examples", "human", "assistant", *LABELS)


@dataclass(frozen=True, slots=True)
class Principle:
    """One principle of the constitution, as a pair of requests."""

    name: str  # what it is called in records
    critique: str  # asks what is wrong with the last reply
    revision: str  # asks for a reply without that


@dataclass(frozen=True, slots=True)
class Example:
    """A round of critique and revision written by hand."""

    prompt: str
    response: str
    principle: str
    critique: str
    revision: str


Entry = TypeVar("Entry", Principle, Example)


def load_principles(name: str) -> tuple[tuple[Principle, ...], str]:
    """Load principles of the package by name, or one's own file by path, with their version.

    FileNotFoundError where there is neither; ValueError for another layout or two of one name.
    """
    principles, version = _load(name, Principle)
    if len({each.name for each in principles}) < len(principles):
        raise ValueError(f"expected principles of {version} to have different names; rename some")
    return principles, version


def load_examples(
    name: str, principles: tuple[Principle, ...], shots: int
) -> tuple[tuple[Example, ...], str]:
    """Load the first ``shots`` examples, which name given principles, and the version of all."""
    examples, version = _load(name, Example)
    if not 0 <= shots <= len(examples):
        raise ValueError(f"expected shots from 0 to {len(examples)} with {version}, got {shots}")
    examples, known = examples[:shots], {each.name for each in principles}
    if missing := sorted({each.principle for each in examples} - known):
        raise ValueError(
            f"expected the examples of {version} to name principles that are there, got {missing}; "
            f"known are {sorted(known)}; give examples for your principles, or shots: 0"
        )
    return examples, version


def load_layout(name: str) -> tuple[dict[str, str], str]:
    """Load the parts of a layout (see `KEYS`), with its version."""
    content, version = read_versioned(name, ".yaml")
    return _texts(parse_yaml(content, version), KEYS, version), version


def _load(name: str, kind: type[Entry]) -> tuple[tuple[Entry, ...], str]:
    content, version = read_versioned(name, ".yaml")
    rows = parse_yaml(content, version)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"expected {version} to be a list of entries, got {type(rows).__name__}")
    names = tuple(each.name for each in fields(kind))
    entries = [_texts(row, names, f"entry {n} of {version}") for n, row in enumerate(rows, 1)]
    return tuple(kind(**entry) for entry in entries), version


def _texts(row: object, names: tuple[str, ...], where: str) -> dict[str, str]:
    """Return the texts of a mapping that has some by these names and nothing else."""
    if (
        isinstance(row, dict)
        and set(row) == set(names)
        and all(isinstance(text, str) and text.strip() for text in row.values())
    ):
        return {key: text.strip() for key, text in row.items()}
    got = sorted(map(str, row)) if isinstance(row, dict) else type(row).__name__
    raise ValueError(f"expected {where} to have a text for each of {list(names)}, got {got}")


def draw_principle(
    principles: tuple[Principle, ...], seed: int, group: str, prompt: str, round_number: int
) -> Principle:
    """Draw the principle of a round of a prompt, all equally likely, by a hash of the arguments."""
    text = json.dumps([seed, group, prompt, round_number])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return principles[int.from_bytes(digest, "big") % len(principles)]


@dataclass(frozen=True)
class RevisionLayout:
    """Lays questions out."""

    texts: dict[str, str]  # the parts of a layout file by name (see `KEYS`)
    principles: tuple[Principle, ...]  # for the requests of the examples
    examples: tuple[Example, ...] = ()  # examples to show before the conversation
    critiques: bool = True  # whether examples show their critiques; False for jobs that skip them
    # ask through the model's chat template; what opens the answer begins the assistant's turn
    chat: bool = False

    @property
    def answer_stops(self) -> tuple[str, ...]:
        """Where a first reply ends: at the next speaker."""
        return tuple(f"\n{self.texts[name]}" for name in ("human", "assistant"))

    @property
    def stops(self) -> tuple[str, ...]:
        """Where critiques and revisions end: four marks, as many as servers take."""
        names = ("human", "critique request", "revision request")
        marks = [self.texts["example"], self.texts["after examples"]]
        # small models go on to a mark but do not finish it as it stands
        mark = os.path.commonprefix(marks).strip() or marks[0]
        return (*(f"\n{self.texts[name]}" for name in names), mark)

    def is_malformed(self, text: str) -> bool:
        """Tell whether an answer is none: it has no letter, or begins with a label of the layout."""
        labels = tuple(self.texts[name].casefold() for name in ("human", "assistant", *LABELS))
        said = text.strip().casefold()
        return said.startswith(labels) or not any(map(str.isalpha, said))

    def dialogue(self, prompt: str, *, marked: bool = False) -> str:
        """Return a prompt as a conversation that ends where the assistant is to speak.

        Dialogues (HH's) stay as they are; anything else becomes what the person says.
        """
        text = prompt.strip()
        said = mark_data(text) if marked else text
        if text.endswith(self.texts["assistant"]):
            return said
        return f"{self.texts['human']} {said}{BLANK}{self.texts['assistant']}"

    def answer(self, prompt: str) -> Question:
        """Return the question whose answer is the first reply."""
        head = self.texts["answer preamble"] + BLANK
        said = self.dialogue(prompt).removesuffix(self.texts["assistant"]).strip()
        if not self.chat:
            return self._ask(head, mark_data(said), self.texts["assistant"])
        speaker = f"{self.texts['human']} "
        if said.startswith(speaker) and f"\n{self.texts['assistant']}" not in said:
            return Question(said.removeprefix(speaker), chat=True)  # a single turn, as people ask
        return Question(head + said, chat=True)

    def critique(self, prompt: str, response: str, principle: Principle) -> Question:
        """Return the question whose answer is a critique of a response."""
        asked = self._until("critique", prompt, response, principle)
        return self._ask(self._head(prompt), asked, self.texts["critique"])

    def revision(
        self, prompt: str, response: str, principle: Principle, critique: str | None
    ) -> Question:
        """Return the question whose answer is a revision; right away where there is no critique."""
        asked = self._until("revision", prompt, response, principle, critique)
        return self._ask(self._head(prompt), asked, self.texts["revision"])

    def _ask(self, head: str, body: str, assistant_prefix: str) -> Question:
        """Make the question: in chats the opening begins the answer, without a gap."""
        text = filled(head + body.rstrip())
        return Question(text if self.chat else text + BLANK, assistant_prefix, self.chat)

    def _head(self, prompt: str) -> str:
        """Return what the questions of a job begin with; an example about the prompt is left out."""

        def plain(prompt: str) -> str:
            return " ".join(self.dialogue(prompt).split()).casefold()

        shown = [each for each in self.examples if plain(each.prompt) != plain(prompt)]
        parts = [self.texts["preamble"], *map(self._example, shown)]
        parts += [self.texts["after examples"]] * bool(shown)
        return "".join(part + BLANK for part in parts)

    def _example(self, example: Example) -> str:
        principle = next(each for each in self.principles if each.name == example.principle)
        given = example.prompt, example.response, principle
        asked = self._until("revision", *given, example.critique if self.critiques else None)
        revision = f"{self.texts['revision']} {mark_data(example.revision)}"
        return BLANK.join([self.texts["example"], asked, revision])

    def _until(
        self,
        part: Literal["critique", "revision"],
        prompt: str,
        response: str,
        principle: Principle,
        critique: str | None = None,
    ) -> str:
        """Return a conversation up to where the model criticizes or revises."""
        parts = [f"{self.dialogue(prompt, marked=True)} {mark_data(response.strip())}"]
        if part == "critique" or critique is not None:
            parts.append(f"{self.texts['critique request']} {principle.critique}")
        if critique is not None:
            parts.append(f"{self.texts['critique']} {mark_data(critique.strip())}")
        if part == "revision":
            parts.append(f"{self.texts['revision request']} {principle.revision}")
        return BLANK.join(parts)
