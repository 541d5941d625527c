"""The win matrix to read, as CSV, as numbers and as a heat map."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rlaif_pl.data.metric_files import save_figure, write_csv, write_page
from rlaif_pl.evaluation.pairs import JudgedPair, write_verdicts
from rlaif_pl.evaluation.samples import write_samples
from rlaif_pl.evaluation.win_rates.measure import MatrixCell, WinMatrix
from rlaif_pl.statistics import flat_metrics
from rlaif_pl.tables import PERCENT, Cell, Column, Columns, Page, Table
from rlaif_pl.types import Prompt

PLOT = "win_matrix.png"
TAUGHT, CLEAR = "†", "*"
SIGNIFICANT = 0.05


def to_metrics(matrix: WinMatrix) -> dict[str, float]:
    """Return flat numbers: win rates by judge and pair, and each policy's own."""
    metrics: dict[str, float] = {"matrix/prompts": matrix.prompts}
    for cell in matrix.cells:
        metrics |= cell.rate.to_metrics(f"{cell.judge}/{cell.a}_vs_{cell.b}", "matrix")
        metrics[f"matrix/{cell.judge}/{cell.a}_vs_{cell.b}_p"] = cell.p_adjusted
    for name, policy in matrix.policies.items():
        values = {n: getattr(policy, n) for n in ("words", "copied_4grams", "unfinished", "kl")}
        values |= {f"reward_{reward}": each for reward, each in policy.rewards.items()}
        metrics |= flat_metrics(f"policy/{name}", values)
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def page_of(matrix: WinMatrix) -> Page:
    """Lay out a table a judge and one of the policies, with notes and the heat map."""
    tables = [*(judge_table(matrix, judge) for judge in matrix.judges), _policy_table(matrix)]
    return Page(tables, notes(matrix), PLOT, "Win rates of every two policies by each judge")


def notes(matrix: WinMatrix) -> list[str]:
    """Return what to know to read the tables."""
    count = len(matrix.policies) * (len(matrix.policies) - 1) // 2
    # beyond 0.5 there is no share
    least = [cell.detectable for cell in matrix.cells if cell.detectable <= 0.5]
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


def write(
    matrix: WinMatrix, prompts: list[Prompt], folder: Path | str, *, show_text: bool = True
) -> None:
    """Write results.md, tables.json, matrix.csv, samples.jsonl, verdicts.jsonl and win_matrix.png."""
    target = Path(folder)
    write_page(target, page_of(matrix))
    ordered = [(c, *names) for c in matrix.cells for names in ((c.a, c.b), (c.b, c.a))]
    write_csv(target / "matrix.csv", [cell_record(matrix, *each) for each in ordered])
    rows = (
        {"prompt": prompt.text, "group": prompt.group, "reference": prompt.reference}
        | {name: list(policy.texts[n]) for name, policy in matrix.policies.items()}
        for n, prompt in enumerate(prompts)
    )
    write_samples(target, rows, show_text=show_text)
    taught = matrix.judges
    judged = (JudgedPair(c.judge, c.a, c.b, c.rate.verdicts, taught[c.judge]) for c in matrix.cells)
    write_verdicts(target, judged)
    save_figure(heat_map(matrix), target / PLOT)


def heat_map(matrix: WinMatrix) -> Figure:
    """Draw one map a judge: blue where the row's policy wins, red where it loses."""
    size = 0.75 * len(matrix.policies) + 1.4
    figure = Figure(figsize=(size * len(matrix.judges), size))
    axes = figure.subplots(1, len(matrix.judges), squeeze=False)[0]
    names = list(matrix.policies)
    for ax, judge in zip(axes, matrix.judges, strict=True):
        values = np.full((len(names), len(names)), np.nan)
        for (i, a), (j, b) in permutations(enumerate(names), 2):
            values[i, j] = 100 * matrix.win_rate(judge, a, b).value
            ax.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", fontsize=8)
        ax.imshow(values, cmap="RdBu", vmin=20, vmax=80)
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        mark = f" {TAUGHT}" if matrix.judges[judge] else ""
        ax.set_title(f"{judge}{mark}: row beats column, %", fontsize=9)
    figure.tight_layout()
    return figure


def judge_table(matrix: WinMatrix, judge: str) -> Table:
    """Lay out one judge's matrix, with each policy's mean at the end."""
    names = list(matrix.policies)
    taught = matrix.judges[judge]
    title = f"Win rates, %, judge: {judge}" + (f" (taught {', '.join(taught)})" if taught else "")
    found = {frozenset((c.a, c.b)): c for c in matrix.cells if c.judge == judge}

    def cell(a: str, b: str) -> Cell:
        one = found[frozenset((a, b))]
        marks = TAUGHT * one.is_taught + CLEAR * (one.p_adjusted < SIGNIFICANT)
        raw, equal = (matrix.win_rate(judge, a, b, flag) for flag in (False, True))
        return f"{raw.percent().replace(' %', '')}{marks}", equal

    rows = [
        [a, *("" if a == b else cell(a, b) for b in names), matrix.mean_win_rate(judge, a)]
        for a in names
    ]
    columns: Columns = [Column(name, PERCENT) for name in ("", *names, "mean")]
    return Table(title, columns, rows)


def _policy_table(matrix: WinMatrix) -> Table:
    rewards = list(next(iter(matrix.policies.values())).rewards)
    columns: Columns = ["policy", Column("words", ".1f"), Column("copied 4-grams, %", PERCENT)]
    columns += [Column("unfinished, %", PERCENT), Column("KL from SFT, nats", ".2f")]
    columns += [Column(f"reward, {name}", ".2f") for name in rewards]
    rows = [
        [name, p.words, p.copied_4grams, p.unfinished, p.kl, *(p.rewards[r] for r in rewards)]
        for name, p in matrix.policies.items()
    ]
    return Table("Policies", columns, rows)


def cell_record(matrix: WinMatrix, cell: MatrixCell, a: str, b: str) -> dict[str, object]:
    """Return a row of CSV about policy ``a`` of a cell against ``b``, the other."""
    raw, equal = (matrix.win_rate(cell.judge, a, b, is_equal) for is_equal in (False, True))
    row: dict[str, object] = {"judge": cell.judge, "policy": a, "against": b}
    row |= {"win_rate": raw.value, "low": raw.low, "high": raw.high}
    row |= {"at_equal_length": equal.value, "equal_low": equal.low, "equal_high": equal.high}
    row |= {"p_adjusted": cell.p_adjusted, "detectable": cell.detectable}
    row |= {"taught": int(cell.is_taught), "comparisons": cell.rate.comparisons}
    return row | {"ties": cell.rate.ties, "failures": sum(cell.rate.failures.values())}
