"""The paper's labels: ask which response is better and read the logits of "1" and "2".

Both orders are asked, mapped back and averaged as probabilities, which cancels most of a position
bias and measures what is left (arXiv 2309.00267, sections 2.1.1 and 2.1.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rlaif_pl.labeling.local import Device, LocalModel, buckets
from rlaif_pl.labeling.outcome import Judgment, Signature, checked_temperature, labeled, sigmoid
from rlaif_pl.labeling.templates import load_prompt
from rlaif_pl.models.backbone import EMBEDDED, Precision
from rlaif_pl.models.encoding import assemble
from rlaif_pl.models.shared_prefix import run
from rlaif_pl.types import Preference

VERDICTS = ("1", "2")


class Question(NamedTuple):
    """One order of one pair, ready to be read."""

    ids: list[int]  # text before the verdict
    one: int  # token of "1" after this text
    two: int  # token of "2"


class Answer(NamedTuple):
    """What the model said to one question, in nats."""

    one: float  # log-probability of "1"
    two: float  # log-probability of "2"


class PairwiseLabeler:
    """Asks a frozen language model which of two responses is better, in both orders.

    Args:
        model: Embedded model, folder or hub name (see ``load_backbone``).
        prompt: Name of a labeling prompt of the package, or path of one's own.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0, where the margin is the
            log-odds of the two orders' averaged probability; 1 gives the paper's labels.
        chat_template: Ask through the tokenizer's chat template; the prompt's last line then opens
            the answer.
        max_tokens: Longest question; a longer one fails, its ending is never cut off.
        batch_tokens: Most tokens in one forward pass, padding included.
        dtype: Type of the weights.
        device: Where to run.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        prompt: str = "summarization-detailed-1",
        temperature: float = 1.0,
        chat_template: bool = False,
        max_tokens: int = 4096,
        batch_tokens: int = 8192,
        dtype: Precision = "float32",
        device: Device = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.prompt = load_prompt(prompt)
        self.temperature = checked_temperature(temperature)
        self.chat_template = chat_template
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.model = LocalModel(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )

    @property
    def fingerprint(self) -> str:
        """Everything that can change a label."""
        return (
            f"pairwise;{self.model.backbone.fingerprint};{self.prompt.version};"
            f"chat_template={self.chat_template};max_tokens={self.max_tokens};"
            f"temperature={self.temperature!r}"
        )

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Label pairs by both orders' answers; order and identity are kept."""
        questions = [self.questions(pair) for pair in pairs]
        limit = min(self.max_tokens, self.model.context or self.max_tokens)
        sizes = [max(len(question.ids) for question in both) for both in questions]
        judgments = [
            Judgment(math.nan, failure="too_long" if size + 1 > limit else None) for size in sizes
        ]
        readable = [n for n, judgment in enumerate(judgments) if judgment.failure is None]
        for group in buckets([2 * sizes[n] for n in readable], self.batch_tokens):
            chosen = [readable[i] for i in group]
            answers = self._read([questions[n] for n in chosen])
            for n, (forward, backward) in zip(chosen, answers, strict=True):
                tokens = sum(len(question.ids) for question in questions[n])
                judgments[n] = combine(forward, backward, self.prompt.asks_worse, tokens)
        signature = Signature(self.model.backbone.fingerprint, "pairwise", self.prompt.version)
        return [
            labeled(pair, judgment, signature, self.temperature)
            for pair, judgment in zip(pairs, judgments, strict=True)
        ]

    def questions(self, pair: Preference) -> tuple[Question, Question]:
        """Tokenize both orders: as given, then swapped."""
        return (
            self._question(self.prompt.render(pair.prompt, pair.first, pair.second)),
            self._question(self.prompt.render(pair.prompt, pair.second, pair.first)),
        )

    def _question(self, text: str) -> Question:
        """Tokenize text and verdict as one string: after some texts "1" is another token.

        Raises:
            ValueError: The verdicts are not one token each after the same tokens.
        """
        if self.chat_template:
            body = text.removesuffix(self.prompt.ending).rstrip()
            text = self._chat(body) + self.prompt.ending
        wholes = [text + verdict for verdict in VERDICTS]
        rows = self.model.tokenizer(wholes, add_special_tokens=not self.chat_template).input_ids
        (*before, one), (*same, two) = rows
        if before != same or one == two:
            raise ValueError(
                f"expected {VERDICTS} to be one token each after {text[-20:]!r}, got "
                f"{rows[0][-3:]} and {rows[1][-3:]}; end the labeling prompt differently"
            )
        return Question(before, one, two)

    def _chat(self, body: str) -> str:
        """Put the question into the tokenizer's chat format, up to where the answer begins."""
        tokenizer = self.model.tokenizer
        if tokenizer.chat_template is None:
            raise ValueError(
                f"expected a chat template in the tokenizer of {self.model.name!r}, found none; "
                "set chat_template to false"
            )
        messages = [{"role": "user", "content": body}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return cast(str, text)

    @torch.no_grad()
    def _read(self, questions: Sequence[tuple[Question, Question]]) -> list[tuple[Answer, Answer]]:
        """Answers of one batch; what both orders of a pair begin with is read once."""
        shared = [common_prefix(first.ids, second.ids) for first, second in questions]
        prefixes = [both[0].ids[:length] for both, length in zip(questions, shared, strict=True)]
        rest = [
            question.ids[length:]
            for both, length in zip(questions, shared, strict=True)
            for question in both
        ]
        batch = assemble(prefixes, rest, self.model.pad).to(self.model.device)
        # A sliding window counts padding as tokens, so beyond it whole texts are read instead.
        width, window = batch.prefix_ids.shape[1] + batch.ids.shape[1], self.model.window
        share = window is None or width <= window
        hidden = run(self.model.stack, batch, share_prefix=share).continuation
        last = hidden[torch.arange(len(rest), device=hidden.device), batch.lengths]
        logits = self.model.head(last.to(self.model.head.weight.dtype)).float()
        ids = torch.tensor(
            [(question.one, question.two) for both in questions for question in both],
            device=logits.device,
        )
        taken: Tensor = logits.double().log_softmax(-1).gather(1, ids)
        answers = [Answer(*map(float, row)) for row in taken.tolist()]
        return list(zip(answers[::2], answers[1::2], strict=True))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of what two rows begin with, at least 1 token and leaving at least 1 of each."""
    limit = min(len(first), len(second)) - 1
    length = next((n for n in range(limit) if first[n] != second[n]), limit)
    if length < 1:
        raise ValueError("expected both orders to begin with the same token; check the template")
    return length


def combine(forward: Answer, backward: Answer, asks_worse: bool, tokens: int) -> Judgment:
    """Map the swapped order back and average both as probabilities.

    Args:
        forward: Answer where the first response is in slot 1.
        backward: Answer where it is in slot 2.
        asks_worse: The verdicts name the worse response: turn them around.
        tokens: Tokens read.
    """
    slots = (forward.one - forward.two, backward.one - backward.two)  # log-odds of slot 1
    sign = -1.0 if asks_worse else 1.0
    odds = (sign * slots[0], -sign * slots[1])  # log-odds that the first response is better
    if not all(map(math.isfinite, odds)):
        return Judgment(math.nan, tokens=tokens, failure="nonfinite")
    outside = [1 - math.exp(answer.one) - math.exp(answer.two) for answer in (forward, backward)]
    return Judgment(
        margin=log_mean(odds[0], odds[1]) - log_mean(-odds[0], -odds[1]),
        tokens=tokens,
        order_gap=abs(sigmoid(odds[0]) - sigmoid(odds[1])),
        same_slot=(slots[0] > 0) == (slots[1] > 0) and 0.0 not in slots,
        outside_mass=min(max(sum(outside) / 2, 0.0), 1.0),
    )


def log_mean(first: float, second: float) -> float:
    """Logarithm of ``(sigmoid(first) + sigmoid(second)) / 2``, finite however large the odds."""
    logs = sorted(-math.log1p(math.exp(-x)) if x > -30 else x for x in (first, second))
    return logs[1] + math.log1p(math.exp(logs[0] - logs[1])) - math.log(2)
