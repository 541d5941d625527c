"""Embed posts and summaries, whole and by sentence, with all-MiniLM-L6-v2 (22M parameters).

python benchmarks/likelihood_study/embed.py batch13.json /tmp/embeddings-A.npz A
"""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

import numpy as np
from pairs import HumanPair, load_pairs

from rlaif_pl.evaluation.judges import EmbeddingJudge


def sentences(text: str) -> list[str]:
    """Split at sentence ends and line breaks; never empty."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [part for part in parts if len(part) > 1] or [text]


def texts_of(pair: HumanPair) -> list[str]:
    """Every text that a feature may compare."""
    whole = [pair.title, pair.post, pair.first, pair.second]
    return whole + [s for text in (pair.post, *pair.texts) for s in sentences(text)]


def main() -> None:
    """Write vectors ``(N, 384)`` and the texts they belong to."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("half", choices=["A", "B"])
    args = parser.parse_args()
    pairs = load_pairs(args.data, args.half)
    texts = list(dict.fromkeys(text for pair in pairs for text in texts_of(pair)))
    vectors = EmbeddingJudge({}).embed(texts).numpy()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output, texts=np.array(texts), vectors=vectors)
    logging.info("%d texts of %d pairs", len(texts), len(pairs))


if __name__ == "__main__":
    main()
