"""The rows of the tables of arXiv 2309.00267, for any model: what is asked and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Literal

from rlaif_pl.labeling import ChainOfThought, FreeFormLabeler, PairwiseLabeler, VerdictOptions
from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Backend
from rlaif_pl.labeling.strategies.pairwise import Task
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Labeler

TableName = Literal["prompts", "self_consistency", "sizes", "formats", "all"]
TOP_K = 40  # of the sampled rationales (appendix M)
# Table 2: preamble, chain of thought, numbers of examples.
PROMPTS: tuple[tuple[Literal["base", "detailed"], bool, tuple[int, ...]], ...] = (
    ("base", False, (0, 1, 2)),
    ("base", True, (0,)),
    ("detailed", False, (0, 1, 2, 8)),
    ("detailed", True, (0, 1, 2)),
)


@dataclass(frozen=True)
class Asking:
    """What the rows of a paper table have in common.

    Attributes:
        task: What is judged.
        chat_template: Ask through the model's chat template.
        max_shots: Leave out rows with more examples; the paper goes to 8 in summarization, 2 in
            dialogue.
        max_rationale_tokens: Length limit of a rationale; the paper's is 512.
        samples: Rationales an order in the rows of self-consistency; the paper has 4 and 16.
        temperatures: Their temperatures; the paper has 0.3, 0.5, 0.7 and 1.
        seed: Seeds the drawing of rationales.
    """

    task: Task = "summarization"
    chat_template: bool = False
    max_shots: int = 8
    max_rationale_tokens: int = 512
    samples: list[int] = field(default_factory=lambda: [4, 16])
    temperatures: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7, 1.0])
    seed: int = 0


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, for any model.

    Attributes:
        rows: Which table; None for none.
        backend: Its model: a name, or a back end with its arguments.
        sizes: Models of the table of sizes by name.
        asking: What its rows have in common.
    """

    rows: TableName | None = None
    backend: Backend | str = EMBEDDED
    sizes: dict[str, Backend | str] | None = None
    asking: Asking = Asking()

    def __post_init__(self) -> None:
        plain = {"backend": EMBEDDED, "sizes": None, "asking": Asking()}
        idle = [name for name, value in plain.items() if getattr(self, name) != value]
        if self.rows is None and idle:
            raise ValueError(
                f"expected table.{', table.'.join(idle)} only with table.rows, got none of these; the "
                "model of one labeler is --labeler.backend"
            )

    def labelers(self) -> dict[str, Labeler]:
        """Return the labelers by name, in the paper's order; none without ``rows``.

        ``prompts`` is table 2, ``self_consistency`` 14, ``sizes`` 3; ``formats`` are soft, one-hot and
        decoded labels, which the paper names and did not compare. ``ValueError``: sizes without any.
        """
        table, asking = self.rows, self.asking
        if table is None:
            return {}
        if table == "sizes" and not self.sizes:
            raise ValueError(
                "expected table.sizes to name the models of the table, such as "
                "{small: HuggingFaceTB/SmolLM2-360M-Instruct, large: ...}, got none"
            )
        model = as_backend(self.backend)  # one for all rows

        task, chat = asking.task, asking.chat_template
        cot = partial(ChainOfThought, max_tokens=asking.max_rationale_tokens, seed=asking.seed)
        pairwise = partial(PairwiseLabeler, task=task, chat_template=chat)
        rows: dict[str, Labeler] = {}
        if table in ("prompts", "all"):
            for preamble, has_cot, examples in PROMPTS:
                for shots in examples:
                    if shots <= asking.max_shots:
                        name = f"{preamble}{' + CoT' * has_cot}, {shots}-shot"
                        thought = cot() if has_cot else False
                        rows[name] = pairwise(model, preamble=preamble, shots=shots, cot=thought)
        if table in ("self_consistency", "all"):
            rows["CoT, 1 greedy rationale"] = pairwise(model, cot=cot())
            for samples, temperature in product(asking.samples, asking.temperatures):
                name = f"CoT, {samples} rationales at T {temperature:g}"
                rows[name] = pairwise(model, cot=cot(samples, temperature, TOP_K))
        if table in ("formats", "all"):
            one_hot = pairwise(model, verdict=VerdictOptions(hard=True))
            rows |= {"soft": pairwise(model), "one-hot": one_hot}
            rows["free-form"] = FreeFormLabeler(model, task=task, chat_template=chat)
        if table in ("sizes", "all"):
            rows |= {name: pairwise(each, cot=cot()) for name, each in (self.sizes or {}).items()}
        return rows
