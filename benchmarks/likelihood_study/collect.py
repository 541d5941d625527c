"""Read pairs with a small model and keep the log-probability of every token.

python benchmarks/likelihood_study/collect.py batch13.json /tmp/cache.sqlite A recon cond alone

Resumable. Nothing here looks at a verdict of people.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
from pairs import load_pairs
from reads import WORDINGS, Cache, Call
from torch import Tensor

from rlaif_pl.models.backbone import Backbone, BackboneOptions, load_backbone

ROWS = 64  # logits that exist at a time


@torch.inference_mode()
def read(backbone: Backbone, context: str, targets: list[str]) -> list[Tensor]:
    """Log-probabilities of the tokens of each target; the context is computed once.

    Args:
        backbone: Who reads.
        context: Text before each target.
        targets: Tokenized apart from the context.
    """
    tokenizer, model = backbone.tokenizer, backbone.model
    before = tokenizer(context).input_ids
    results = []
    cache = None
    if len(targets) > 1:
        start = model.model(torch.tensor([before]), use_cache=True)
        cache, last = start.cache, start.last_hidden_state[0, -1:]
    for target in targets:
        after = tokenizer(target, add_special_tokens=False).input_ids
        if cache is None:
            hidden = model.model(torch.tensor([before + after])).last_hidden_state[0]
            hidden = hidden[len(before) - 1 : -1]
        else:
            out = model.model(torch.tensor([after]), cache=cache, use_cache=True)
            hidden = torch.cat([last, out.last_hidden_state[0, :-1]])
            cache.crop(-len(after))
        taken = torch.tensor(after)
        parts = []
        for rows, ids in zip(hidden.split(ROWS), taken.split(ROWS), strict=True):
            logits = model.lm_head(rows).float()
            parts.append(logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1))
        results.append(torch.cat(parts))
    return results


def main() -> None:
    """Read what is missing from the cache."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("half", choices=["A", "B"])
    parser.add_argument("wordings", nargs="+", choices=list(WORDINGS))
    parser.add_argument("--limit", type=int, default=None, help="read only the first pairs")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    cache, backbone = Cache(args.cache), load_backbone(BackboneOptions(dtype=args.dtype))
    pairs = load_pairs(args.data, args.half)[: args.limit]
    logging.info("%d pairs of half %s", len(pairs), args.half)
    for name in args.wordings:
        started, done = time.perf_counter(), 0
        for pair in pairs:
            calls: dict[Call, None] = {WORDINGS[name](pair, text): None for text in pair.texts}
            fresh = [call for call in calls if cache.get(call) is None]
            for context in dict.fromkeys(call[0] for call in fresh):
                targets = [call[1] for call in fresh if call[0] == context]
                for target, value in zip(targets, read(backbone, context, targets), strict=True):
                    cache.put((context, target), value.numpy())
                    done += 1
        logging.info("%s: %d reads in %.0f s", name, done, time.perf_counter() - started)


if __name__ == "__main__":
    main()
