"""Pairs labeled a second: the local back end against the plain way, on real TL;DR prompts.

The plain way is what one would write with transformers alone: two full prompts a pair, padded batches,
``model(**batch).logits`` of every token. Both label the same pairs in turn, so that other work on the
machine slows both; the labels must agree within 1e-4 before any time counts.

    OMP_NUM_THREADS=2 python benchmarks/labeling.py            (about 5 minutes on two cores)
    python benchmarks/labeling.py --device cuda

On a GPU both take bfloat16 and larger batches where nothing else is said. In bfloat16 each way rounds
otherwise: labels of ours may then lie twice as far from those of the plain way in float32, on average,
as those of the plain way in bfloat16 do, and 0.02 more.

Comparisons: see ``tldr.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from device import Place, add_device_options, place_of
from labeling_plain import PlainBackend, Recorder
from rich.console import Console
from rich.table import Table
from timing import gemm_rate
from tldr import load_pairs

from rlaif_pl.engine.tree_runner import Node, grow, merge
from rlaif_pl.labeling import LocalBackend, PairwiseLabeler, VerdictOptions
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.types import Preference

LONGEST_POST = 300  # words
TOLERANCE = 1e-4
# Times the gap that rounding to 16 bits makes, and what few pairs may make of it by luck: a logit of 20
# is rounded by up to 0.06, of which a label takes a quarter.
NOISE, LEAST_NOISE = 2.0, 0.02
EVERY = VerdictOptions(min_option_mass=0.0)  # no model's answer is left out
EXACT_PAIRS = 32  # labeled in float32 too, to know that gap


@dataclass(frozen=True)
class Case:
    """Times of one way to ask.

    Attributes:
        name: What is asked.
        plain: Seconds of each part, the plain way.
        ours: Seconds of each part with the local back end.
        processor: Processor seconds of both, which other work on the machine hardly changes.
        pairs: Pairs in all.
        read: Tokens of all prompts.
        needed: Tokens without what they have in common.
        flops: Floating point operations that the needed tokens take.
        gaps: Between the labels of both ways.
    """

    name: str
    plain: list[float]
    ours: list[float]
    processor: dict[str, float]
    pairs: int
    read: int
    needed: int
    flops: float
    gaps: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return sum(self.plain) / sum(self.ours)

    @property
    def processor_ratio(self) -> float:
        """How many times less work for the processor."""
        return self.processor["plain"] / self.processor["ours"]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, help="24 on a CPU, 256 on a GPU")
    parser.add_argument("--parts", type=int, default=2, help="turns that plain and ours take")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument(
        "--batch_tokens", type=int, help="of ours, in one pass: 4,096 on a CPU, 32,768 on a GPU"
    )
    parser.add_argument(
        "--plain_batch", type=int, help="prompts of the plain way: 4 on a CPU, 32 on a GPU"
    )
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    pairs = load_pairs(LONGEST_POST)[: place.pick(24, 256, given.pairs)]
    backend = LocalBackend(
        given.model,
        device=str(place.device),
        dtype=place.dtype_name,
        batch_tokens=place.pick(4096, 32_768, given.batch_tokens),
    )
    plain = PlainBackend(backend, place.pick(4, 32, given.plain_batch))
    warm_up(backend, plain)
    rates = [gemm_rate(place, seconds=2.0)]
    cases = []
    for shots in (0, 2):
        cases.append(measure(backend, plain, pairs, shots, given.parts, place))
        rates.append(gemm_rate(place, seconds=2.0))
    peak = statistics.median(rates)
    show(cases, peak, place)
    sys.stdout.write(json.dumps(result_of(cases, peak, place)) + "\n")
    return 0


def result_of(cases: Sequence[Case], peak: float, place: Place) -> dict[str, Any]:
    """Return the JSON object."""
    return {
        "name": "labeling",
        "ratios": {case.name: round(case.ratio, 2) for case in cases},
        "equal": True,
        **place.facts(),
        "processor_ratios": {case.name: round(case.processor_ratio, 2) for case in cases},
        "share_of_gemm_peak": {
            case.name: round(case.flops / sum(case.ours) / peak, 3) for case in cases
        },
        "pairs_per_s": {
            case.name: {
                "plain": round(case.pairs / sum(case.plain), 3),
                "ours": round(case.pairs / sum(case.ours), 3),
            }
            for case in cases
        },
        "largest_gap": {case.name: round(max(case.gaps), 6) for case in cases},
    }


def warm_up(backend: LocalBackend, plain: PlainBackend) -> None:
    """Touch both ways once."""
    pair = Preference("A post.", "One.", "Another.", "warm-up")
    for answers in (backend, plain):
        PairwiseLabeler(answers).label([pair])


def measure(
    backend: LocalBackend,
    plain: PlainBackend,
    pairs: Sequence[Preference],
    shots: int,
    parts: int,
    place: Place,
) -> Case:
    """Label the same pairs both ways, part by part in turn.

    Raises:
        ValueError: The labels differ.
    """
    recorder = Recorder(backend)
    labelers = {
        name: PairwiseLabeler(answers, shots=shots, verdict=EVERY)
        for name, answers in (("plain", plain), ("ours", recorder))
    }
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    processor = {"plain": 0.0, "ours": 0.0}
    size, gaps = -(-len(pairs) // parts), []
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        labels = {}
        for name, labeler in labelers.items():
            began, worked = time.perf_counter(), time.process_time()
            labels[name] = labels_of(labeler, part)
            place.synchronize()
            seconds[name].append(time.perf_counter() - began)
            processor[name] += time.process_time() - worked
            sys.stderr.write(f"{shots} exemplars, {name}: {seconds[name][-1]:.1f} s\n")
        gaps += [abs(a - b) for a, b in zip(labels["plain"], labels["ours"], strict=True)]
    asked = list(recorder.rows)
    if place.dtype == torch.float32 and not max(gaps) < TOLERANCE:
        raise ValueError(f"expected equal labels within {TOLERANCE}, got gaps {gaps}")
    if place.dtype != torch.float32:
        check_rounding(labelers, backend, pairs[:EXACT_PAIRS], shots, plain.batch_size)
    rows = list(dict.fromkeys(row.ids[: row.first] for row in asked))
    needed, flops = cost(backend, asked)
    name = "zero_shot" if not shots else f"{shots}_exemplars"
    read = sum(map(len, rows))
    times = seconds["plain"], seconds["ours"]
    return Case(name, *times, processor, len(pairs), read, needed, flops, gaps)


def labels_of(labeler: PairwiseLabeler, pairs: Sequence[Preference]) -> list[float]:
    """Label pairs.

    Raises:
        ValueError: One got no label.
    """
    found = [pair.p_first for pair in labeler.label(pairs)]
    labels = [label for label in found if label is not None]
    if len(labels) < len(found):
        raise ValueError(f"expected a label for each pair, got {found}")
    return labels


def check_rounding(
    labelers: Mapping[str, PairwiseLabeler],
    backend: LocalBackend,
    pairs: Sequence[Preference],
    shots: int,
    batch_size: int,
) -> None:
    """Compare labels in 16 bits with the plain way in float32, by the noise of the plain way.

    Raises:
        ValueError: Ours lie further from them than rounding explains.
    """
    exact = LocalBackend(backend.model.name, device=str(backend.model.device))
    labeler = PairwiseLabeler(PlainBackend(exact, batch_size), shots=shots, verdict=EVERY)
    truth = labels_of(labeler, pairs)
    gap = {}
    for name, each in labelers.items():
        labels = zip(labels_of(each, pairs), truth, strict=True)
        gap[name] = statistics.mean(abs(a - b) for a, b in labels)
    if not gap["ours"] < NOISE * gap["plain"] + LEAST_NOISE:
        raise ValueError(
            f"expected labels as near those in float32 as the plain way's, got mean gaps {gap}"
        )


def cost(backend: LocalBackend, rows: Sequence[Row]) -> tuple[int, float]:
    """Count tokens and operations that are left when nothing is computed twice."""
    config = backend.model.backbone.model.config
    decoder: Any = backend.model.top.decoder
    per_token = 2 * sum(weight.numel() for weight in decoder.layers.parameters())
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    per_key = 4 * config.num_hidden_layers * width  # scores and weighted sum, 2 a multiply-add
    texts, owners = merge(rows)
    nodes: list[Node] = grow(texts, sorted(set(owners), key=lambda n: texts[n].ids), least=1)
    tokens, keys = 0, 0
    while nodes:
        tokens += sum(len(node.ids) for node in nodes)
        keys += sum(sum(range(node.start + 1, node.start + len(node.ids) + 1)) for node in nodes)
        nodes = [child for node in nodes for child in node.children]
    head = 2 * config.hidden_size * config.vocab_size * len(set(owners))
    return tokens, float(per_token * tokens + per_key * keys + head)


def show(cases: Sequence[Case], peak: float, place: Place) -> None:
    """Print the table."""
    here = place.pick(f"{torch.get_num_threads()} threads", "a GPU")
    table = Table(title=f"labeling on {here}, {place.dtype_name}")
    columns = ("case", "pairs/s plain", "pairs/s ours", "ratio", "tokens read", "needed")
    for column in (*columns, "GFLOP/s", "of GEMM peak"):
        table.add_column(column, justify="right")
    for case in cases:
        rate = case.flops / sum(case.ours)
        table.add_row(
            case.name,
            f"{case.pairs / sum(case.plain):.3f}",
            f"{case.pairs / sum(case.ours):.3f}",
            f"{case.ratio:.2f}",
            f"{case.read:,}",
            f"{case.needed:,}",
            f"{rate / 1e9:.0f}",
            f"{rate / peak:.0%}",
        )
    console = Console()
    console.print(table)
    console.print(f"{place.dtype_name} GEMM peak measured here: {peak / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    sys.exit(main())
