"""What the growth benchmarks share: counted operations, measured rates, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.engine.runner import DecoderRunner

PROMPT = 350  # tokens, about the mean of TL;DR posts
KEYS_VALUES = ("k_proj", "v_proj")  # what the last layer cannot leave out of tokens nobody reads
FROM_INPUTS = ("q_proj", *KEYS_VALUES)  # read a layer's own inputs
Case = tuple[int, int, int]  # response tokens, responses a prompt, prompts


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        sweep: What varies.
        size: Its value.
        count: Pairs or samples a step.
        seconds: Median of a step.
        floor: Seconds that what cannot be avoided takes at the measured rates.
    """

    sweep: str
    size: int
    count: int
    seconds: float
    floor: float

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.sweep} {self.size}"

    @property
    def share(self) -> float:
        """Share of the floor's speed that is reached."""
        return self.floor / self.seconds


def cases(
    sweeps: Mapping[str, Sequence[Case]], factor: int, sizes: int | None
) -> Iterator[tuple[str, int, Case]]:
    """Yield each sweep, the value of what varies in it, and the whole case.

    Args:
        sweeps: Cases by what varies, in the order of a case's numbers.
        factor: How many times as many prompts a step takes.
        sizes: Only the first of each sweep; None for all.
    """
    for place, (sweep, every) in enumerate(sweeps.items()):
        for response, per_prompt, prompts in every[:sizes]:
            case = response, per_prompt, factor * prompts
            yield sweep, case[place], case


def operations(stack: DecoderRunner, batch: ResponseBatch, *, ends_only: bool = False) -> float:
    """Count the multiplications and additions that one pass of a Llama-type stack cannot do without.

    A weight takes 2 a token forward; where anything is trained, 2 more for the gradient of its inputs
    (none where those are frozen embeddings) and 2 more if it is trained itself. A key that a token sees
    takes 4 a channel forward (scores and weighted sum) and 8 backward. In the last layer only tokens
    that are read need more than keys and values.

    Args:
        stack: Layers from the embeddings on.
        batch: Tokens; only real ones count.
        ends_only: Whether the last token of each continuation is read; else all of them are, and no
            prefix token.
    """
    decoder: Any = stack.decoder
    embeddings_train = decoder.embed_tokens.weight.requires_grad
    trains = any(p.requires_grad for p in stack.parameters())
    prefixes, rows = batch.prefix_lengths, batch.continuation_lengths
    tokens = sum(prefixes) + sum(rows)
    read = len(rows) if ends_only else sum(rows)
    total = 0.0
    for n, layer in enumerate(decoder.layers):
        is_last = n == len(decoder.layers) - 1
        for name, weight in layer.named_parameters():
            if weight.dim() != 2:
                continue
            part = name.split(".")[1]
            is_bottom = n == 0 and part in FROM_INPUTS and "lora_B" not in name
            per_token = 2
            if trains:
                needs_inputs = embeddings_train or not is_bottom
                per_token += 2 * needs_inputs + 2 * weight.requires_grad
            places = read if is_last and part not in KEYS_VALUES else tokens
            total += per_token * weight.numel() * places
        seen = keys_seen(prefixes, rows, is_last, ends_only)
        total += (12 if trains else 4) * channels(stack) * seen
    return total


def channels(stack: DecoderRunner) -> int:
    """Channels of all query heads."""
    decoder: Any = stack.decoder
    return int(decoder.config.num_attention_heads * decoder.layers[0].self_attn.head_dim)


def keys_seen(prefixes: Sequence[int], rows: Sequence[int], is_last: bool, ends_only: bool) -> int:
    """Sum over the tokens that must attend in a layer of the keys that each sees."""
    repeat, seen = len(rows) // len(prefixes), 0
    for group, prefix in enumerate(prefixes):
        seen += 0 if is_last else prefix * (prefix + 1) // 2
        for own in rows[group * repeat : (group + 1) * repeat]:
            whole = own * prefix + own * (own + 1) // 2
            seen += prefix + own if is_last and ends_only else whole
    return seen


def show(points: Sequence[Point], title: str, unit: str) -> None:
    """Print a table."""
    print(f"{title:24s} {unit + '/s':>10s} {'s a step':>10s} {'floor, s':>10s} {'share':>7s}")
    for p in points:
        rate = p.count / p.seconds
        print(f"{p.name:24s} {rate:10.3f} {p.seconds:10.4g} {p.floor:10.4g} {p.share:7.0%}")


def draw(tables: Mapping[str, Sequence[Point]], unit: str, file: Path) -> None:
    """Write a picture with one row a table and one panel a sweep.

    Args:
        tables: Points by what was measured.
        unit: What is counted.
        file: Where to.
    """
    from matplotlib.figure import Figure

    sweeps = list(dict.fromkeys(p.sweep for points in tables.values() for p in points))
    figure = Figure(figsize=(10, 3.2 * len(tables)), layout="constrained")
    grid = figure.subplots(len(tables), len(sweeps), squeeze=False)
    for line, (title, points) in zip(grid, tables.items(), strict=True):
        for axes, sweep in zip(line, sweeps, strict=True):
            own = [p for p in points if p.sweep == sweep]
            sizes = [p.size for p in own]
            axes.plot(sizes, [p.count / p.floor for p in own], "--", color="0.5", label="floor")
            axes.plot(sizes, [p.count / p.seconds for p in own], "o-", label="measured")
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_ylim(bottom=0)
            axes.set_xlabel(sweep)
        line[0].set_ylabel(f"{title}, {unit}/s" if title else f"{unit}/s")
    grid[0][-1].legend()
    figure.savefig(file, dpi=120)
