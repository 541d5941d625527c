"""Labels read off a small model's likelihoods: how well does the response let it guess the prompt?

A model of 135M parameters answers at chance when asked which of two summaries is better, but the
likelihood it gives the post after reading a summary agrees with people well above chance. So the
score of a response is the log-probability of the prompt's tokens after the response
("reconstruction"), and the margin of a pair is the difference of two scores. There is no order,
hence no position bias.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlaif_pl.labeling.local import Device, LocalModel
from rlaif_pl.labeling.outcome import Judgment, Signature, checked_temperature, labeled
from rlaif_pl.labeling.reading import Row, read_targets, size_of
from rlaif_pl.models.backbone import EMBEDDED, Precision
from rlaif_pl.text import truncate_words
from rlaif_pl.types import Preference

TEMPLATE = "TL;DR: {response}\n\nPOST: {prompt}"
VERSION = "reconstruction-1"  # raise with TEMPLATE
CONDITION = "POST: {prompt}\n\nTL;DR:"
NO_CONDITION = "TL;DR:"
PMI_VERSION = "pmi-1"  # raise with the two above


class Score(NamedTuple):
    """Score of one response and what it took."""

    value: float  # nats, nan where there is none
    tokens: int
    failure: str | None


class LikelihoodLabeler:
    """Scores a response by log P(prompt | response) under a frozen language model.

    With ``pmi_weight`` w the score is ``log P(prompt | response) / tokens + w * PMI`` with
    ``PMI = (log P(response | prompt) - log P(response)) / tokens of the response``: a garbled response
    that names the right words is likely to be found out by the second term.

    Context and prompt are tokenized apart (the prompt with the white space before it) and joined,
    so both responses of a pair are scored on exactly the same tokens of the prompt.

    Args:
        model: Embedded model, folder or hub name (see ``load_backbone``).
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0. The default fits people's
            verdicts on whole TL;DR posts (0.104 on 100 pairs, embedded model, per token); shorter
            prompts have wider margins and want more (0.28 where cut to 60 words).
        normalize: ``token`` averages over the prompt's tokens, ``sum`` adds them up.
        pmi_weight: Weight of the response's own likelihood gain, at least 0; 0 leaves it out and
            saves two passes of three.
        max_prompt_words: Prompts are cut after this many words; None reads them whole.
        batch_tokens: Most tokens in one forward pass, padding included.
        dtype: Type of the weights.
        device: Where to run.
        template: Text with ``{response}`` and, at its end, ``{prompt}``.
        num_layers: Keep only the model's first layers; None keeps them all.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        temperature: float = 0.1,
        normalize: Literal["token", "sum"] = "token",
        pmi_weight: float = 0.0,
        max_prompt_words: int | None = None,
        batch_tokens: int = 4096,
        dtype: Precision = "float32",
        device: Device = "auto",
        template: str = TEMPLATE,
        num_layers: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if normalize not in ("token", "sum"):
            raise ValueError(f"normalize must be 'token' or 'sum', got {normalize!r}")
        self.temperature = checked_temperature(temperature)
        if not (math.isfinite(pmi_weight) and pmi_weight >= 0):
            raise ValueError(f"pmi_weight must be finite and at least 0, got {pmi_weight}")
        self.normalize = normalize
        self.pmi_weight = pmi_weight
        self.max_prompt_words = max_prompt_words
        self.batch_tokens = batch_tokens
        self.template = template
        self.context, self.target = split_template(template)
        self.model = LocalModel(
            model,
            num_layers=num_layers,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        self._known: dict[tuple[str, str], Score] = {}

    @property
    def prompt_version(self) -> str:
        """Version of the templates; one of the user's own is named by its hash."""
        version = VERSION
        if self.template != TEMPLATE:
            version = "custom-" + hashlib.sha256(self.template.encode()).hexdigest()[:12]
        return f"{version}+{self.pmi_weight!r}*{PMI_VERSION}" if self.pmi_weight else version

    @property
    def fingerprint(self) -> str:
        """Everything that can change a label."""
        return (
            f"likelihood;{self.model.backbone.fingerprint};{self.prompt_version};"
            f"normalize={self.normalize};max_prompt_words={self.max_prompt_words};"
            f"temperature={self.temperature!r}"
        )

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return each response's score in nats; nan where there is none."""
        return [score.value for score in self.details(prompts, responses)]

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Label pairs by the difference of their scores; order and identity are kept."""
        prompts = [pair.prompt for pair in pairs]
        both = [pair.first for pair in pairs] + [pair.second for pair in pairs]
        scores = self.details(prompts * 2, both)
        signature = Signature(self.model.backbone.fingerprint, "likelihood", self.prompt_version)
        result = []
        for n, pair in enumerate(pairs):
            first, second = scores[n], scores[n + len(pairs)]
            judgment = Judgment(
                margin=first.value - second.value,
                tokens=first.tokens + second.tokens,
                failure=first.failure or second.failure,
            )
            result.append(labeled(pair, judgment, signature, self.temperature))
        return result

    def details(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Score]:
        """Return scores with token counts and failures (``empty``, ``too_long``, ``nonfinite``).

        Each different prompt and response is read once in the life of this labeler.
        """
        keys = list(zip(prompts, responses, strict=True))
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        rows = self._encode([text for key in fresh for text in self._texts(*key)])
        width = len(rows) // max(len(fresh), 1)
        readable = []
        for n, key in enumerate(fresh):
            part = rows[n * width : (n + 1) * width]
            longest, limit = max(map(size_of, part)), self.model.context
            if any(not target for _, target in part):
                self._known[key] = Score(math.nan, 0, "empty")
            elif limit is not None and longest > limit:
                self._known[key] = Score(math.nan, 0, "too_long")
            else:
                readable.append((key, part))
        flat = [row for _, part in readable for row in part]
        values = read_targets(self.model, flat, self.batch_tokens)
        for n, (key, part) in enumerate(readable):
            value = self._combine(values[n * width : (n + 1) * width])
            failure = None if math.isfinite(value) else "nonfinite"
            self._known[key] = Score(value, sum(map(size_of, part)), failure)
        return [self._known[key] for key in keys]

    def _texts(self, prompt: str, response: str) -> list[tuple[str, str]]:
        """Contexts and targets whose likelihoods make the score: one, or three with PMI."""
        limit, response = self.max_prompt_words, response.strip()
        text = prompt.strip() if limit is None else truncate_words(prompt.strip(), limit)
        context = self.context.replace("{response}", response)
        texts = [(context, self.target.replace("{prompt}", text) if text else "")]
        if self.pmi_weight:
            target = f" {response}" if response else ""
            texts += [(CONDITION.replace("{prompt}", text), target), (NO_CONDITION, target)]
        return texts

    def _combine(self, sums: Sequence[tuple[float, int]]) -> float:
        """Make the score of the log-likelihoods and token counts of ``_texts``."""
        total, count = sums[0]
        score = total / count if self.normalize == "token" else total
        if self.pmi_weight:
            (given, length), (alone, _) = sums[1:]
            score += self.pmi_weight * (given - alone) / length
        return score

    def _encode(self, texts: Sequence[tuple[str, str]]) -> list[Row]:
        """Tokenize contexts and targets apart."""
        if not texts:
            return []
        tokenizer = self.model.tokenizer
        before = tokenizer([text for text, _ in texts], add_special_tokens=True).input_ids
        after = tokenizer([text for _, text in texts], add_special_tokens=False).input_ids
        return list(zip(before, after, strict=True))


def split_template(template: str) -> tuple[str, str]:
    """Cut a template into the context and the scored part, white space going to the latter.

    Raises:
        ValueError: A field is missing or repeated, or ``{prompt}`` is not last.
    """
    counts = (template.count("{response}"), template.count("{prompt}"))
    if counts != (1, 1) or not template.endswith("{prompt}"):
        raise ValueError(
            "template must contain {response} once and end with {prompt}, "
            f"got {template!r}; everything before {{prompt}} is context"
        )
    context = template.removesuffix("{prompt}")
    bare = context.rstrip(" ")
    return bare, context[len(bare) :] + "{prompt}"
