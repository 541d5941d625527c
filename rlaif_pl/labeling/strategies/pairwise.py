"""The paper's labels: ask which response is better and read how likely each verdict is.

All of arXiv 2309.00267's ways of asking: base and detailed preambles, examples, chain of thought,
self-consistency; both orders, mapped back and averaged as probabilities (sections 2.1 and 2.1.1,
appendices L and M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlaif_pl.labeling.calls import Ask, Backend
from rlaif_pl.labeling.outcome import Judgment, VerdictOptions, label_version
from rlaif_pl.labeling.prompting.layout import Layout, both_orders, load_exemplars
from rlaif_pl.labeling.prompting.templates import load_prompt
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought, as_cot, judge_orders
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.thinking import Thinking, checked_thinking
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

Task = Literal["summarization", "helpful", "harmless"]
Preamble = Literal["base", "detailed"]


class PairwiseLabeler(ModelLabeler):
    """Asks a language model which of two responses is better, in both orders.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: What is judged; ``harmless`` asks for the more harmful response and turns the answer
            around.
        preamble: ``base`` only says what to do, ``detailed`` also what a good response is.
        prompt: Name or path of a prompt file, in place of the one for task and preamble.
        shots: Number of examples shown before the sample.
        exemplars: Name or path of a file with examples, in place of the task's.
        cot: Have a rationale written first and read the verdict after it (two calls an order): true for
            a greedy one, or how to draw one or several. Of several, a pair is labeled where more than
            half came about in each order.
        tie: Allow a third answer, that there is no difference; half of its probability counts for each
            side, and ``tie_mass`` keeps how much it was.
        verdict: One-hot or clamped labels; least probability of the options together.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        thinking: Have the model think before each verdict, whose probabilities are then read as ever;
            needs ``chat_template`` and a model that thinks. None asks without thoughts.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0, where the margin is the
            log-odds of the averaged probability; 1 gives the paper's labels.
    """

    strategy = "pairwise"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        preamble: Preamble = "detailed",
        prompt: str | None = None,
        shots: int = 0,
        exemplars: str | None = None,
        cot: bool | ChainOfThought = False,
        tie: bool = False,
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        thinking: Thinking | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.cot = as_cot(cot)
        thinking = checked_thinking(thinking, chat_template, self.cot is not None)
        super().__init__(backend, temperature, verdict, thinking)
        shown = (
            load_exemplars(exemplars or f"exemplars-{task}-1", shots, bool(cot)) if shots else None
        )
        file = load_prompt(prompt or f"{task}-{preamble}-1")
        self.layout = Layout(file, shown, shots, bool(cot), chat_template, tie=tie)

    @property
    def prompt_version(self) -> str:
        """Version of the prompt and of every setting of the strategy that can change a label."""
        drawn = f"+{self.cot.version}" if self.cot else ""
        return self.layout.version + drawn + label_version(self.hard, self.clamp)

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by both orders' verdicts."""
        return judge_orders([both_orders(pair) for pair in pairs], self.layout, self.cot, ask)
