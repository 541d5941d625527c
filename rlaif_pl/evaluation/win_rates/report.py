"""The win matrix for the terminal, as Markdown, as CSV, as numbers and as a heat map."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlaif_pl.data.metric_files import write_text
from rlaif_pl.evaluation.samples import write_samples
from rlaif_pl.evaluation.verdicts import JudgedPair, write_verdicts
from rlaif_pl.evaluation.win_rates.measure import WinMatrix
from rlaif_pl.statistics import Interval
from rlaif_pl.types import Prompt

TAUGHT, CLEAR = "†", "*"
SIGNIFICANT = 0.05


def to_metrics(matrix: WinMatrix) -> dict[str, float]:
    """Return flat numbers: win rates by judge and pair, and each policy's own."""
    metrics: dict[str, float] = {"matrix/prompts": matrix.prompts}
    for cell in matrix.cells:
        metrics |= cell.rate.to_metrics(f"{cell.judge}/{cell.a}_vs_{cell.b}", "matrix")
        metrics[f"matrix/{cell.judge}/{cell.a}_vs_{cell.b}_p"] = cell.p_adjusted
    for name, policy in matrix.policies.items():
        metrics |= policy.words.to_metrics(f"policy/{name}/words")
        metrics |= policy.copied_4grams.to_metrics(f"policy/{name}/copied_4grams")
        if policy.unfinished is not None:
            metrics[f"policy/{name}/unfinished"] = policy.unfinished
        if policy.kl is not None:
            metrics |= policy.kl.to_metrics(f"policy/{name}/kl")
        for reward, interval in policy.rewards.items():
            metrics |= interval.to_metrics(f"policy/{name}/reward_{reward}")
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def to_markdown(matrix: WinMatrix) -> str:
    """Return a table a judge, one of the policies, the notes and a link to the heat map."""
    parts = []
    for judge in matrix.judges:
        title, header, rows = judge_table(matrix, judge)
        parts.append(f"**{title}**\n\n{_markdown(header, rows)}")
    parts.append("**Policies**\n\n" + _markdown(*_policy_table(matrix)))
    parts.append("\n".join(f"- {note}" for note in notes(matrix)))
    parts.append("![Win rates of every two policies by each judge](win_matrix.png)")
    return "\n\n".join(parts) + "\n"


def notes(matrix: WinMatrix) -> list[str]:
    """Return what to know to read the tables."""
    count = len(matrix.policies) * (len(matrix.policies) - 1) // 2
    least = [cell.detectable for cell in matrix.cells if math.isfinite(cell.detectable)]
    lines = [
        f"A cell says how often the row's policy beats the column's, over {matrix.prompts} prompts; "
        "ties count half, intervals (95 %) by bootstrap over prompts. Second line: at equal length "
        "(arXiv 2309.00267, appendix J).",
        f"{CLEAR}: not even at 5 % after adjusting for {count} pairs a judge (Holm). "
        f"{TAUGHT}: the judge's labels trained one of the two.",
    ]
    if least:
        lines.append(
            f"Smallest distance from 50 % found with 80 % power: {100 * min(least):.1f} to "
            f"{100 * max(least):.1f} points, before the adjustment."
        )
    return lines


def render(matrix: WinMatrix, console: Console) -> None:
    """Print the tables."""
    for judge in matrix.judges:
        title, header, rows = judge_table(matrix, judge)
        console.print(rich_table(title, header, rows))
    console.print(rich_table("Policies", *_policy_table(matrix)))
    for note in notes(matrix):
        console.print(escape(note), highlight=False)


def write(
    matrix: WinMatrix, prompts: list[Prompt], folder: Path | str, *, show_text: bool = True
) -> None:
    """Write results.md, matrix.csv, samples.jsonl, verdicts.jsonl and win_matrix.png.

    Args:
        matrix: Win rates and samples.
        prompts: What the samples respond to.
        folder: Where to.
        show_text: Whether samples.jsonl holds texts or their hashes; see ``write_samples``.
    """
    target = Path(folder)
    write_text(target / "results.md", to_markdown(matrix))
    write_text(target / "matrix.csv", _csv(matrix))
    names = list(matrix.policies)
    rows = (
        {
            "prompt": prompt.text,
            "group": prompt.group,
            "reference": prompt.reference,
            **{name: list(matrix.policies[name].texts[n]) for name in names},
        }
        for n, prompt in enumerate(prompts)
    )
    write_samples(target, rows, show_text=show_text)
    write_verdicts(
        target,
        [
            JudgedPair(c.judge, c.a, c.b, c.rate.verdicts, matrix.judges[c.judge])
            for c in matrix.cells
        ],
    )
    figure = heat_map(matrix)
    work = target / ".win_matrix.png"
    figure.savefig(work, dpi=130, format="png", bbox_inches="tight", metadata={"Software": None})
    work.replace(target / "win_matrix.png")


def heat_map(matrix: WinMatrix) -> Figure:
    """Draw one map a judge: blue where the row's policy wins, red where it loses."""
    size = 0.75 * len(matrix.policies) + 1.4
    figure = Figure(figsize=(size * len(matrix.judges), size))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(matrix.judges), squeeze=False)[0]
    for ax, judge in zip(axes, matrix.judges, strict=True):
        _draw(ax, matrix, judge)
    figure.tight_layout()
    return figure


def _draw(ax: Axes, matrix: WinMatrix, judge: str) -> None:
    names = list(matrix.policies)
    values = np.full((len(names), len(names)), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if a != b:
                values[i, j] = 100 * matrix.win_rate(judge, a, b).value
                ax.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", fontsize=8)
    ax.imshow(values, cmap="RdBu", vmin=20, vmax=80)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    mark = f" {TAUGHT}" if matrix.judges[judge] else ""
    ax.set_title(f"{judge}{mark}: row beats column, %", fontsize=9)


def judge_table(matrix: WinMatrix, judge: str) -> tuple[str, list[str], list[list[str]]]:
    """Return title, header and rows of one judge's matrix, with each policy's mean at the end."""
    names = list(matrix.policies)
    taught = matrix.judges[judge]
    title = f"Win rates, %, judge: {judge}"
    if taught:
        title += f" (taught {', '.join(taught)})"
    cells = {frozenset((c.a, c.b)): c for c in matrix.cells if c.judge == judge}
    rows = []
    for a in names:
        row = [a]
        for b in names:
            if a == b:
                row.append("")
                continue
            cell = cells[frozenset((a, b))]
            marks = TAUGHT * cell.is_taught + CLEAR * (cell.p_adjusted < SIGNIFICANT)
            raw, equal = (matrix.win_rate(judge, a, b, flag) for flag in (False, True))
            row.append(f"{_share(raw)}{marks}; {_share(equal)}")
        row.append(f"{100 * matrix.mean_win_rate(judge, a):.1f}")
        rows.append(row)
    return title, ["", *names, "mean"], rows


def _policy_table(matrix: WinMatrix) -> tuple[list[str], list[list[str]]]:
    """Lay out what stands beside the wins."""
    rewards = list(next(iter(matrix.policies.values())).rewards)
    header = ["policy", "words", "copied 4-grams, %", "unfinished, %", "KL from SFT, nats"]
    header += [f"reward, {name}" for name in rewards]
    rows = [
        [
            name,
            policy.words.number(".1f"),
            _share(policy.copied_4grams),
            "–" if policy.unfinished is None else f"{100 * policy.unfinished:.1f}",
            "–" if policy.kl is None else policy.kl.number(),
            *(policy.rewards[reward].number() for reward in rewards),
        ]
        for name, policy in matrix.policies.items()
    ]
    return header, rows


def _csv(matrix: WinMatrix) -> str:
    """Return a row a judge and ordered pair."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["judge", "policy", "against", "win_rate", "low", "high", "at_equal_length", "equal_low"]
        + ["equal_high", "p_adjusted", "detectable", "taught", "comparisons", "ties", "failures"]
    )
    for c in matrix.cells:
        for a, b in ((c.a, c.b), (c.b, c.a)):
            raw, equal = (matrix.win_rate(c.judge, a, b, flag) for flag in (False, True))
            limits = [raw.value, raw.low, raw.high, equal.value, equal.low, equal.high]
            counts = [c.rate.comparisons, c.rate.ties, sum(c.rate.failures.values())]
            row = [c.judge, a, b, *limits, c.p_adjusted, c.detectable, int(c.is_taught), *counts]
            writer.writerow(row)
    return text.getvalue()


def _share(interval: Interval) -> str:
    return interval.percent().replace(" %", "")


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell for cell in line) + " |" for line in lines)


def rich_table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    """Return a table for the terminal: what "; " parts in a cell stands on a line each."""
    table = Table(title=escape(title), title_justify="left", pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell.replace("; ", "\n")) for cell in row))
    return table
