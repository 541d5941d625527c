"""Measure a labeler's configuration on one half with the shipped classes.

python benchmarks/likelihood_study/measure.py batch13.json B labeler.yaml --out labels-B.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import yaml
from pairs import HIGH_CONFIDENCE, half_of

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.labeling import LikelihoodLabeler
from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.strategies.likelihood_terms import WeightedTerm
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.types import Preference

CHUNK = 16  # pairs labeled before they are written down


def pairs_of(data: Path, half: str, confidence: list[int], with_title: bool) -> list[Preference]:
    """Pairs of a half, majority of workers of a confidence, exact ties left out."""
    source = DataSource(str(data), confidence=confidence, with_title=with_title, hard_labels=True)
    return [pair for pair in load_preferences(source).rows if half_of(pair.group) in half]


def margins_of(labeler: LikelihoodLabeler, pairs: list[Preference], out: Path) -> list[float]:
    """Label pairs, going on from where an earlier run stopped.

    Raises:
        ValueError: A pair got no label.
    """
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    margins = [float(json.loads(line)["margin"]) for line in lines]
    for start in range(len(margins), len(pairs), CHUNK):
        with out.open("a", encoding="utf-8") as stream:
            for judged in labeler.label(pairs[start : start + CHUNK]):
                margin = judged.provenance.margin
                if margin is None:
                    raise ValueError(f"{judged.group}: {judged.provenance.failure}")
                row = {"group": judged.group, "margin": margin, "tokens": judged.provenance.tokens}
                stream.write(json.dumps(row) + "\n")
                margins.append(margin)
    return margins


def right(favors_first: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """1 where the favored side (positive) won, 0.5 where none is favored. ``(N,)``."""
    return np.where(favors_first == 0, 0.5, (favors_first > 0) == wins)


def main() -> None:
    """Print alignment, gain over the length rule and length-matched alignment."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("half", choices=["A", "B", "AB"])
    parser.add_argument("config", type=Path, help="init_args of LikelihoodLabeler, as YAML")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="label only the first pairs")
    high = sorted(HIGH_CONFIDENCE)
    parser.add_argument("--confidence", type=int, nargs="+", default=high)
    parser.add_argument("--without-title", action="store_true", help="prompts are bare posts")
    args = parser.parse_args()
    options = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    if isinstance(options["backend"], dict):
        options["backend"] = LocalBackend(**options["backend"])
    options["terms"] = [WeightedTerm(**term) for term in options["terms"]]
    labeler = LikelihoodLabeler(**options)
    pairs = pairs_of(args.data, args.half, args.confidence, not args.without_title)[: args.limit]
    started = time.perf_counter()
    margins = np.array(margins_of(labeler, pairs, args.out))
    logging.info("%s: %.0f s", labeler.fingerprint, time.perf_counter() - started)

    groups = [pair.group for pair in pairs]
    wins = np.array([pair.p_first == 1.0 for pair in pairs])
    lengths = np.array([[len(pair.first), len(pair.second)] for pair in pairs], float)
    own, longer = right(margins, wins), right(lengths[:, 0] - lengths[:, 1], wins)
    matched = lengths.min(1) >= 0.8 * lengths.max(1)
    close = [group for group, keep in zip(groups, matched, strict=True) if keep]

    def show(name: str, interval: Interval) -> None:
        logging.info("%-28s %s  n=%d", name, interval.percent(), interval.n)

    show("alignment", Estimator().share(own, groups))
    show("longer wins", Estimator().share(longer, groups))
    show("gain over length", Estimator().share_difference(own, longer, groups))
    show("alignment, length-matched", Estimator().share(own[matched], close))
    show("longer wins, length-matched", Estimator().share(longer[matched], close))
    loss = np.logaddexp(0, -np.where(wins, margins, -margins) / labeler.temperature).mean()
    logging.info("cross-entropy at T=%g: %.4f", labeler.temperature, loss)


if __name__ == "__main__":
    main()
