"""Print how well each score alone, and some together, agree with people on half A.

python benchmarks/likelihood_study/explore.py batch13.json cache.sqlite --embeddings A.npz
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from features import SURFACE, Array, Embedded, load_reads, on_texts, per_summary
from pairs import HumanPair, load_pairs
from reads import Cache
from scipy.optimize import minimize, minimize_scalar
from scores import conditional, information, readable, reconstruction
from transformers import AutoTokenizer

from rlaif_pl.models.embedded import embedded_model_folder

FITTED = (["shared_words", "title_words"], ["shared_information", "title_words"])


class Verdicts:
    """What people said of some pairs, and how to compare scores with it.

    Args:
        pairs: The pairs.
    """

    def __init__(self, pairs: list[HumanPair]) -> None:
        self.wins = np.array([pair.first_wins for pair in pairs])
        self.sign = np.where(self.wins, 1.0, -1.0)
        self.matched = np.array([pair.is_length_matched for pair in pairs])
        self.groups = np.array([pair.group for pair in pairs])

    def row(self, name: str, margins: Array) -> str:
        """Alignment, matched alignment and cross-entropy at the best temperature."""
        right = np.where(margins == 0, 0.5, (margins > 0) == self.wins)
        scaled = self.sign * margins / (margins.std() or 1.0)
        best = minimize_scalar(
            lambda b: np.logaddexp(0, -b * scaled).mean(), bounds=(0, 10), method="bounded"
        )
        matched = right[self.matched].mean()
        return f"| {name} | {right.mean():.1%} | {matched:.1%} | {best.fun:.3f} |"

    def cross_validated(self, features: Array, labels: int | None, seed: int) -> Array:
        """Margins of a logistic regression without intercept, five folds by post.

        Args:
            features: Differences of scores, ``(pairs, features)``.
            labels: Verdicts to fit on, drawn from the other folds; None takes all.
            seed: Draws folds and labels.
        """
        rng, posts = np.random.default_rng(seed), np.unique(self.groups)
        fold_of = dict(zip(posts, rng.permutation(len(posts)) % 5, strict=True))
        folds = np.array([fold_of[group] for group in self.groups])
        scaled, margins = features / features.std(0), np.zeros(len(features))
        for fold in range(5):
            chosen = rng.permutation(np.flatnonzero(folds != fold))[:labels]
            x, sign = scaled[chosen], self.sign[chosen]
            fit = minimize(
                lambda b, x=x, s=sign: np.logaddexp(0, -(x @ b) * s).sum() + b @ b / 2,
                np.zeros(x.shape[1]),
            )
            margins[folds == fold] = scaled[folds == fold] @ fit.x
        return margins


def main() -> None:
    """Print a table for each kind of reading that the cache holds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--embeddings", type=Path)
    args = parser.parse_args()
    everything, cache = load_pairs(args.data, "A"), Cache(args.cache)
    tokenizer = AutoTokenizer.from_pretrained(str(embedded_model_folder()))

    def show(title: str, pairs: list[HumanPair], scores: dict[str, Array]) -> None:
        verdicts = Verdicts(pairs)
        logging.info("\n%s: %d pairs, %d matched", title, len(pairs), verdicts.matched.sum())
        for name, value in scores.items():
            logging.info(verdicts.row(name, value[:, 0] - value[:, 1]))

    measures = dict(SURFACE)
    if args.embeddings is not None:
        measures |= Embedded(args.embeddings).measures()
    show("texts", everything, {name: on_texts(everything, f) for name, f in measures.items()})
    for wordings in (["recon_titled"], ["cond_titled", "alone"], ["title"], ["alone"]):
        pairs = readable(everything, cache, wordings)
        if not pairs:
            continue
        reads = [load_reads(pairs, cache, wording) for wording in wordings]
        if wordings == ["recon_titled"]:
            scores = reconstruction(reads[0])
        elif wordings == ["title"]:
            scores = {"title, mean": per_summary(reads[0], np.mean)}
        elif len(wordings) == 2:
            scores = conditional(*reads)
        else:
            scores = information(pairs, reads[0], tokenizer)
            _together(pairs, scores)
        show(" and ".join(wordings), pairs, scores)


def _together(pairs: list[HumanPair], scores: dict[str, Array]) -> None:
    """Print fits of two scores by the number of labels."""
    verdicts = Verdicts(pairs)
    scores = {name: on_texts(pairs, f) for name, f in SURFACE.items()} | scores
    differences = {name: value[:, 0] - value[:, 1] for name, value in scores.items()}
    for names in FITTED:
        features = np.stack([differences[name] for name in names], 1)
        for labels in (10, 25, 50, 100, None):
            runs = [verdicts.cross_validated(features, labels, seed) for seed in range(10)]
            right = np.mean([(run > 0) == verdicts.wins for run in runs])
            logging.info("%s, %s labels: %.1f %%", " + ".join(names), labels or "all", 100 * right)


if __name__ == "__main__":
    main()
