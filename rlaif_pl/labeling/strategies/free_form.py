"""One-hot labels from written verdicts: the model answers in words, rules find out whom it named.

arXiv 2309.00267, section 2.1, names this as what it does not do; it is here to be measured against
soft labels, and for servers that give no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif_pl.labeling.calls import Ask, Backend, Decoding, GenerateRequest, Response
from rlaif_pl.labeling.outcome import Judgment, one_hot
from rlaif_pl.labeling.prompting.extraction import extract_verdict
from rlaif_pl.labeling.prompting.layout import Layout, both_orders, load_exemplars
from rlaif_pl.labeling.prompting.templates import load_prompt
from rlaif_pl.labeling.prompting.verdicts import Spent
from rlaif_pl.labeling.strategies.pairwise import Task
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

RULES = "rules-2"  # raise when extract_verdict reads some answer differently
SHARES = {"first": 1.0, "second": 0.0, "tie": 0.5}  # of slot 1


class FreeFormLabeler(ModelLabeler):
    """Has verdicts written in both orders and labels with 1, 0, or 0.5 where the orders disagree.

    An answer without a verdict is a failure of its kind (``refused``, ``both``, ``neither``,
    ``malformed``, ``empty``, ``unclosed_thought``), never a label; one that calls the responses equal
    counts as a half.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: What is judged; ``harmless`` asks for the more harmful response and turns the answer
            around.
        prompt: Name or path of a prompt file, in place of the task's.
        shots: Number of examples shown before the sample.
        exemplars: Name or path of a file with examples, in place of the task's.
        max_answer_tokens: Length limit of an answer, at least 1; a longer one is cut and read.
        chat_template: Ask through the model's chat template; the ending opens the answer.
    """

    strategy = "free_form"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        prompt: str | None = None,
        shots: int = 0,
        exemplars: str | None = None,
        max_answer_tokens: int = 64,
        chat_template: bool = False,
    ) -> None:
        super().__init__(backend, 1.0)
        if max_answer_tokens < 1:
            raise ValueError(f"expected max_answer_tokens of at least 1, got {max_answer_tokens}")
        shown = load_exemplars(exemplars or f"exemplars-{task}-1", shots, False) if shots else None
        file = load_prompt(prompt or f"free_form-{task}-1")
        self.layout = Layout(file, shown, shots, False, chat_template)
        stops = self.layout.stops[1:]  # an answer may well begin with the ending
        self.decoding = Decoding(max_answer_tokens, stop=stops)

    @property
    def prompt_version(self) -> str:
        """Version of the prompt, of the rules and of how answers are decoded."""
        return f"{self.layout.version}+{RULES}+max={self.decoding.max_tokens}"

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by what is written in both orders."""
        samples = [sample for pair in pairs for sample in both_orders(pair)]
        replies = ask(
            [GenerateRequest(self.layout.verdict(each), self.decoding) for each in samples]
        )
        both = zip(replies[::2], replies[1::2], strict=True)
        return [self._judgment(forward, backward) for forward, backward in both]

    def _judgment(self, forward: Response, backward: Response) -> Judgment:
        """Map the swapped order back and take the majority."""
        spent = Spent()
        slots, failures = [], []
        for reply in (forward, backward):
            spent.add(reply)
            verdict = reply.failure or self._verdict(reply.text)
            if verdict in SHARES:
                slots.append(SHARES[verdict])
            else:
                failures.append(verdict)
        if failures:
            return spent.judgment(failure=min(failures))
        first = [slots[0], 1.0 - slots[1]]
        if self.layout.prompt.asks_worse:
            first = [1.0 - share for share in first]
        same = slots[0] == slots[1] != SHARES["tie"]
        return spent.judgment(
            position_gap=abs(first[0] - first[1]),
            same_slot=same,
            slot=(1 if slots[0] else 2) if same else None,
            p_first=one_hot(sum(first) - 1.0),
        )

    def _verdict(self, text: str) -> str:
        """Read an answer together with what opened it ("The better one is" ...)."""
        prompt = self.layout.prompt
        if not text.strip():
            return "empty"
        return extract_verdict(f"{prompt.ending} {text.strip()}", prompt.asks_worse)
