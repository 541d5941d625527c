"""A back end that follows a script, so that every text of a revision can be worked out by hand."""

import pytest

from rlaif_pl.labeling.calls import Response
from rlaif_pl.types import Prompt


class ScriptedBackend:
    """Writes what a function says for each question; two tokens read, one written, a cent a call."""

    fingerprint = "scripted"

    def __init__(self, write):
        self.write = write
        self.asked = []

    def answer(self, calls, done):
        for place, call in reversed(list(enumerate(calls))):
            self.asked.append(call)
            said = self.write(call)
            if not isinstance(said, Response):
                said = Response(text=said, read=2, written=1, cost_usd=0.01)
            done(place, said)

    def of(self, assistant_prefix):
        """Return the questions that open with a label, in the order of the rounds."""
        return [c.question for c in self.asked if c.question.assistant_prefix == assistant_prefix]


def number(call):
    """Write answers, critiques and revisions that say which round they are of."""
    said = call.question.text.split("»»» Now the same")[-1]
    if call.question.assistant_prefix == "Assistant:":
        return " First answer."
    level = next((n for n in range(9, 0, -1) if f"Revision number {n}." in said), 0)
    if call.question.assistant_prefix == "Critique:":
        return f" Critique number {level + 1}.\n"
    return f" Revision number {level + 1}."


@pytest.fixture
def scripted():
    """Makes back ends that follow a script; by default texts count their rounds."""
    return lambda write=number: ScriptedBackend(write)


@pytest.fixture
def requests():
    """Two plain requests and a dialogue."""
    return [
        Prompt("How do I annoy my neighbor?", "a"),
        Prompt("How do I fool my sister?", "b"),
        Prompt("\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Help me lie.\n\nAssistant:", "c"),
    ]
