"""The rows of the tables of arXiv 2309.00267, for any model: what is asked and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from rlaif_pl.labeling import ChainOfThought, FreeFormLabeler, PairwiseLabeler, VerdictOptions
from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Backend
from rlaif_pl.labeling.strategies.pairwise import Task
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Labeler

TableName = Literal["prompts", "self_consistency", "sizes", "formats", "all"]
TOP_K = 40  # of the sampled rationales (appendix M)
# Table 2: preamble, examples, chain of thought.
PROMPTS: tuple[tuple[Literal["base", "detailed"], int, bool], ...] = (
    ("base", 0, False),
    ("base", 1, False),
    ("base", 2, False),
    ("base", 0, True),
    ("detailed", 0, False),
    ("detailed", 1, False),
    ("detailed", 2, False),
    ("detailed", 8, False),
    ("detailed", 0, True),
    ("detailed", 1, True),
    ("detailed", 2, True),
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
        """Return the labelers of the table by name, in the paper's order; none without rows."""
        if self.rows is None:
            return {}
        return paper_rows(self.rows, self.backend, self.asking, self.sizes)


def paper_rows(
    table: TableName,
    backend: Backend | str,
    asking: Asking,
    sizes: Mapping[str, Backend | str] | None = None,
) -> dict[str, Labeler]:
    """Return the labelers of a table by name, in the paper's order.

    Args:
        table: ``prompts`` (table 2: preamble, examples, chain of thought), ``self_consistency``
            (table 14), ``sizes`` (table 3), ``formats`` (soft, one-hot and decoded labels, which the
            paper names and did not compare), or ``all`` of them.
        backend: The model asked in all tables but ``sizes``.
        asking: What the rows have in common.
        sizes: Models of the table of sizes by name.

    Raises:
        ValueError: The table of sizes is wanted and there are no sizes.
    """
    if table == "sizes" and not sizes:
        raise ValueError(
            "expected table.sizes to name the models of the table, such as "
            "{small: HuggingFaceTB/SmolLM2-360M-Instruct, large: ...}, got none"
        )
    model = as_backend(backend)  # one for all rows

    def cot(samples: int = 1, temperature: float = 0.0, top_k: int = 0) -> ChainOfThought:
        return ChainOfThought(samples, temperature, top_k, asking.max_rationale_tokens, asking.seed)

    def pairwise(model: Backend | str = model, **options: Any) -> PairwiseLabeler:
        chat = asking.chat_template
        return PairwiseLabeler(model, task=asking.task, chat_template=chat, **options)

    rows: dict[str, Labeler] = {}
    if table in ("prompts", "all"):
        for preamble, shots, has_cot in PROMPTS:
            if shots <= asking.max_shots:
                rows[f"{preamble}{' + CoT' * has_cot}, {shots}-shot"] = pairwise(
                    preamble=preamble, shots=shots, cot=cot() if has_cot else False
                )
    if table in ("self_consistency", "all"):
        rows["CoT, 1 greedy rationale"] = pairwise(cot=cot())
        for samples, temperature in product(asking.samples, asking.temperatures):
            name = f"CoT, {samples} rationales at T {temperature:g}"
            rows[name] = pairwise(cot=cot(samples, temperature, TOP_K))
    if table in ("formats", "all"):
        free = FreeFormLabeler(model, task=asking.task, chat_template=asking.chat_template)
        one_hot = pairwise(verdict=VerdictOptions(hard=True))
        rows |= {"soft": pairwise(), "one-hot": one_hot, "free-form": free}
    if table in ("sizes", "all"):
        rows |= {name: pairwise(each, cot=cot()) for name, each in (sizes or {}).items()}
    return rows
