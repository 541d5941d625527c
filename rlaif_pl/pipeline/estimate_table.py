"""Print estimates: memory by role, time and money by stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlaif_pl.pipeline.estimate import StageEstimate
from rlaif_pl.pipeline.estimate_expect import Expect
from rlaif_pl.pipeline.estimate_memory import CARDS_GIB, CONTEXT_BYTES, GIB, USABLE

MILLION, BILLION = 1e6, 1e9


def show_estimates(console: Console, expect: Expect, stages: Sequence[StageEstimate]) -> None:
    """Print what the stages take."""
    trained = [stage for stage in stages if stage.fit is not None]
    if trained:
        console.print(memory_table(expect, trained))
        console.print(
            f"Estimates, for a GPU and batch at the longest prompt ({expect.longest:.0f} tokens); "
            f"total with {CONTEXT_BYTES / GIB:.0f} GiB for driver and libraries; {USABLE:.0%} of a "
            "card are counted as usable. 'kept / recomputed': activations without and with "
            "gradient_checkpointing. 'logits avoided': what the vocabulary logits of all scored tokens "
            "would take, which are never held at once.",
            highlight=False,
        )
    console.print(cost_table(expect, stages))
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
    table = Table(title=f"memory a GPU in GiB, {expect.gpus} GPU(s)")
    table.add_column("stage")
    table.add_column("parameters")
    titles = ("weights", "gradients", "optimizer", "kept / recomputed", "logits / avoided", "total")
    for title in (*titles, *(f"{card} GiB" for card in CARDS_GIB)):
        table.add_column(title, justify="right")
    for stage in stages:
        fit = stage.fit
        if fit is None:
            continue
        roles = [
            f"{role.name} {count(role.trained)} trained"
            + (f" + {count(role.frozen)} frozen" if role.frozen else "")
            if role.trained
            else f"{role.name} {count(role.frozen)} frozen"
            for role in fit.roles
        ]
        held = fit.memory
        table.add_row(
            stage.stage,
            "\n".join(roles),
            gib(held.weights + held.casts),
            gib(held.gradients + held.buckets),
            gib(held.optimizer),
            f"{gib(fit.without_checkpointing)} / {gib(fit.with_checkpointing)}",
            f"{gib(held.logits)} / {gib(held.logits_avoided)}",
            gib(held.total),
            *("fits" if held.fits(card) else "no" for card in CARDS_GIB),
        )
    return table


def cost_table(expect: Expect, stages: Sequence[StageEstimate]) -> Table:
    """Rows, steps, arithmetic, hours, tokens and money of each stage, and in all."""
    table = Table(title="time and cost")
    table.add_column("stage")
    for title in ("rows", "steps x batch", "PFLOP", "GPU-hours"):
        table.add_column(title, justify="right")
    for title in ("requests", "tokens read", "written", "server GPU-hours", "USD"):
        table.add_column(title, justify="right")
    table.add_column("note")
    for stage in stages:
        fit, labels = stage.fit, stage.labels
        table.add_row(
            stage.stage,
            "" if stage.rows is None else f"{stage.rows:,.0f}",
            "" if fit is None or fit.steps is None else f"{fit.steps:,.0f} x {fit.effective_batch}",
            "" if fit is None else f"{(fit.flops + fit.decode_flops) / 1e15:,.0f}",
            f"{stage.gpu_hours:,.1f}" if stage.gpu_hours else "",
            "" if labels is None else f"{labels.requests:,.0f}",
            "" if labels is None else f"{labels.read / MILLION:,.1f} M",
            "" if labels is None else f"{labels.written / MILLION:,.1f} M",
            f"{stage.server_hours:,.1f}" if stage.server_hours else "",
            money_of(stage, expect),
            " ".join(part for part in (stage.labeler or "", stage.note) if part),
        )
    own, server = sum(s.gpu_hours for s in stages), sum(s.server_hours for s in stages)
    total = usd_of(stages, expect)
    table.add_section()
    spent = "" if total is None else f"{total:,.2f}"
    table.add_row("all", "", "", "", f"{own:,.1f}", "", "", "", f"{server:,.1f}", spent, "")
    return table


def usd_of(stages: Sequence[StageEstimate], expect: Expect) -> float | None:
    """Money of some stages: priced tokens, else GPU-hours; None where nothing has a price."""
    known = [
        value
        for stage in stages
        for value in (_tokens_usd(stage), _hours_usd(stage, expect))
        if value
    ]
    return sum(known) if known else None


def money_of(stage: StageEstimate, expect: Expect) -> str:
    """Money of one stage."""
    value = usd_of([stage], expect)
    return "" if value is None else f"{value:,.2f}"


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
