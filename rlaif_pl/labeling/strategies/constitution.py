"""Labels by a constitution: one principle a pair, asked as a choice between (A) and (B).

The feedback of RL-CAI (Bai et al. 2022, arXiv 2212.08073, section 4): a principle is drawn for each
comparison, the labels are soft, and after chain of thought they are clamped, because a model that
has reasoned is nearly certain. What differs here: both orders are asked and averaged, and the
principles are this project's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rlaif_pl.labeling.calls import Ask, Backend
from rlaif_pl.labeling.outcome import Judgment, VerdictOptions, label_version
from rlaif_pl.labeling.prompting.layout import Layout, both_orders, load_exemplars
from rlaif_pl.labeling.prompting.templates import (
    PRINCIPLED,
    load_prompt,
    parse_yaml,
    read_versioned,
)
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought, as_cot, judge_orders
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

COT_CLAMP = (0.4, 0.6)  # 2212.08073, section 4.1


class ConstitutionLabeler(ModelLabeler):
    """Asks which response answers a drawn principle better, in both orders.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        principles: Name or path of a YAML list of questions; each must be answered by the better
            response.
        prompt: Name or path of a prompt file whose sample has ``{principle}``.
        shots: Number of examples shown before the sample, each with a principle of its own.
        exemplars: Name or path of a file with examples.
        cot: Have a rationale written first and read the verdict after it; see ``PairwiseLabeler``.
        seed: Decides which principle a pair gets.
        verdict: One-hot or clamped labels (by default clamped to 0.4 .. 0.6 with ``cot``); least
            probability of the options together.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0.
    """

    strategy = "constitution"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        principles: str = "principles-1",
        prompt: str = "constitution-1",
        shots: int = 0,
        exemplars: str = "exemplars-harmless-1",
        cot: bool | ChainOfThought = False,
        seed: int = 0,
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(backend, temperature, verdict)
        self.clamp = verdict.limits(COT_CLAMP if cot else None)
        self.principles, self.principles_version = load_principles(principles)
        self.seed = seed
        self.cot = as_cot(cot)
        shown = load_exemplars(exemplars, shots, bool(cot)) if shots else None
        file = load_prompt(prompt, PRINCIPLED)
        self.layout = Layout(file, shown, shots, bool(cot), chat_template, self.principle)

    @property
    def prompt_version(self) -> str:
        """Version of the prompt and of every setting of the strategy that can change a label."""
        drawn = f"+{self.cot.version}" if self.cot else ""
        read = self.layout.version + drawn + label_version(self.hard, self.clamp)
        return f"{read}+{self.principles_version},seed={self.seed}"

    def principle(self, prompt: str, first: str, second: str) -> str:
        """Draw the principle of a pair: decided by the seed and the texts, not by their order."""
        texts = json.dumps([self.seed, prompt, *sorted([first, second])])
        digest = hashlib.blake2b(texts.encode(), digest_size=8).digest()
        return self.principles[int.from_bytes(digest, "big") % len(self.principles)]

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by both orders' verdicts."""
        orders = [both_orders(pair, self.principle) for pair in pairs]
        return judge_orders(orders, self.layout, self.cot, ask)


def load_principles(name: str) -> tuple[tuple[str, ...], str]:
    """Load principles of the package by name, or one's own file by path, with their version.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: The file is not a list of different texts.
    """
    content, version = read_versioned(name, ".yaml")
    rows = parse_yaml(content, version)
    if not (
        isinstance(rows, list)
        and rows
        and all(isinstance(row, str) and row.strip() for row in rows)
        and len(set(rows)) == len(rows)
    ):
        raise ValueError(
            f"expected {version} to be a YAML list of different questions, got {str(rows)[:60]!r}"
        )
    return tuple(row.strip() for row in rows), version
