"""Print estimates: memory by role, time and money by stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from rlaif_pl.pipeline.estimate import StageEstimate
from rlaif_pl.pipeline.estimate_expect import Expect
from rlaif_pl.pipeline.estimate_memory import CARDS_GIB, CONTEXT_BYTES, GIB, USABLE, Role
from rlaif_pl.tables import Cell, Column, Columns, Rows, Table

MILLION, BILLION = 1e6, 1e9


def show_estimates(console: Console, expect: Expect, stages: Sequence[StageEstimate]) -> None:
    """Print what the stages take."""
    trained = [stage for stage in stages if stage.fit is not None]
    if trained:
        console.print(memory_table(expect, trained).rich())
        console.print(
            f"Estimates, for a GPU and batch at the longest prompt ({expect.longest:.0f} tokens); "
            f"total with {CONTEXT_BYTES / GIB:.0f} GiB for driver and libraries; {USABLE:.0%} of a "
            "card are counted as usable. 'kept / recomputed': activations without and with "
            "gradient_checkpointing. 'logits avoided': what the vocabulary logits of all scored tokens "
            "would take, which are never held at once.",
            highlight=False,
        )
    console.print(cost_table(expect, stages).rich())
    money = expect.usd_per_gpu_hour
    console.print(
        f"Estimates at {expect.tflops:.0f} TFLOP/s a GPU, {expect.utilization:.0%} of it in training "
        f"and scoring, {expect.decode_utilization:.1%} in sampling, {expect.server_utilization:.0%} "
        f"for tokens a labeling server writes; {expect.prompt_tokens:.0f} tokens a prompt, "
        f"{expect.response_tokens:.0f} a response; "
        + ("no price a GPU-hour given" if money is None else f"{money:g} USD a GPU-hour")
        + ". Change them with `expect` in the experiment file.",
        highlight=False,
    )


def memory_table(expect: Expect, stages: Sequence[StageEstimate]) -> Table:
    """Parameters by role and bytes on one GPU, in GiB."""
    titles = ("weights", "gradients", "optimizer", "kept / recomputed", "logits / avoided", "total")
    columns: Columns = ["stage", Column("parameters", align="left"), *titles]
    columns += [f"{card} GiB" for card in CARDS_GIB]
    rows: Rows = []
    for stage, fit in ((stage.stage, stage.fit) for stage in stages if stage.fit is not None):
        held = fit.memory
        rows.append(
            [
                stage,
                tuple(size_of(role) for role in fit.roles),
                gib(held.weights + held.casts),
                gib(held.gradients + held.buckets),
                gib(held.optimizer),
                f"{gib(fit.without_checkpointing)} / {gib(fit.with_checkpointing)}",
                f"{gib(held.logits)} / {gib(held.logits_avoided)}",
                gib(held.total),
                *("fits" if held.fits(card) else "no" for card in CARDS_GIB),
            ]
        )
    return Table(f"memory a GPU in GiB, {expect.gpus} GPU(s)", columns, rows)


def size_of(role: Role) -> str:
    """Weights of a role, in words."""
    parts = [(role.trained, "trained"), (role.frozen, "frozen")]
    return f"{role.name} " + " + ".join(f"{count(n)} {word}" for n, word in parts if n)


def cost_table(expect: Expect, stages: Sequence[StageEstimate]) -> Table:
    """Rows, steps, arithmetic, hours, tokens and money of each stage, and in all."""
    columns: Columns = ["stage", Column("rows", ",.0f"), "steps x batch", Column("PFLOP", ",.0f")]
    columns += [Column("GPU-hours", ",.1f"), Column("requests", ",.0f"), "tokens read", "written"]
    columns += [Column("server GPU-hours", ",.1f"), Column("USD", ",.2f")]
    columns.append(Column("note", align="left"))
    total: list[Cell] = ["all", *[""] * 3, sum(s.gpu_hours for s in stages), *[""] * 3]
    total += [sum(s.server_hours for s in stages), _or_blank(usd_of(stages, expect)), ""]
    return Table("time and cost", columns, [_costs(each, expect) for each in stages], total)


def _costs(stage: StageEstimate, expect: Expect) -> list[Cell]:
    fit, labels = stage.fit, stage.labels
    return [
        stage.stage,
        _or_blank(stage.rows),
        "" if fit is None or fit.steps is None else f"{fit.steps:,.0f} x {fit.effective_batch}",
        "" if fit is None else (fit.flops + fit.decode_flops) / 1e15,
        stage.gpu_hours or "",
        "" if labels is None else labels.requests,
        "" if labels is None else f"{labels.read / MILLION:,.1f} M",
        "" if labels is None else f"{labels.written / MILLION:,.1f} M",
        stage.server_hours or "",
        _or_blank(usd_of([stage], expect)),
        " ".join(part for part in (stage.labeler or "", stage.note) if part),
    ]


def _or_blank(value: float | None) -> Cell:
    return "" if value is None else value


def usd_of(stages: Sequence[StageEstimate], expect: Expect) -> float | None:
    """Money of some stages: priced tokens, else GPU-hours; None where nothing has a price."""
    known = [
        value
        for stage in stages
        for value in (_tokens_usd(stage), _hours_usd(stage, expect))
        if value
    ]
    return sum(known) if known else None


def _tokens_usd(stage: StageEstimate) -> float | None:
    return None if stage.labels is None else stage.labels.usd


def _hours_usd(stage: StageEstimate, expect: Expect) -> float | None:
    if expect.usd_per_gpu_hour is None:
        return None
    priced = _tokens_usd(stage) is not None
    hours = stage.gpu_hours + (0.0 if priced else stage.server_hours)
    return hours * expect.usd_per_gpu_hour


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"


def count(parameters: int) -> str:
    """A number of weights in a few characters."""
    return f"{parameters / BILLION:.2f}B" if parameters >= 1e8 else f"{parameters / MILLION:.1f}M"
