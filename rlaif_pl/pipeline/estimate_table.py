"""Print estimates: memory by role, time and money by stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from rlaif_pl.pipeline.estimate import StageEstimate
from rlaif_pl.pipeline.estimate_inputs import Expect
from rlaif_pl.pipeline.estimate_training import CONTEXT_BYTES, GIB, Role
from rlaif_pl.tables import Cell, Column, Columns, Rows, Table

CARDS_GIB = (24, 40, 80, 141)
USABLE = 0.9  # of a card; the rest goes to fragments of the allocator
MILLION, BILLION = 1e6, 1e9


def show_estimates(console: Console, expect: Expect, stages: Sequence[StageEstimate]) -> None:
    """Print what the stages take."""
    if any(stage.fit for stage in stages):
        console.print(memory_table(expect, stages).rich())
        console.print(
            f"Estimates, for a GPU and batch at the longest prompt ({expect.longest:.0f} tokens); "
            f"total with {CONTEXT_BYTES / GIB:.0f} GiB for driver and libraries; {USABLE:.0%} of a "
            "card are counted as usable. 'kept / recomputed': activations without and with "
            "gradient_checkpointing.",
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
    titles = ("weights", "gradients", "optimizer", "kept / recomputed", "logits", "total")
    columns: Columns = ["stage", Column("parameters", align="left"), *titles]
    columns += [f"{card} GiB" for card in CARDS_GIB]
    rows: Rows = []
    for stage, fit in ((stage.stage, stage.fit) for stage in stages if stage.fit is not None):
        held = fit.memory
        sizes = (held.weights, held.gradients, held.optimizer, held.logits, held.total)
        *cells, logits, total = (gib(size) for size in sizes)
        activations = " / ".join(gib(fit.activations(flag)) for flag in (False, True))
        fits = ["fits" if held.total <= USABLE * c * GIB else "no" for c in CARDS_GIB]
        roles = tuple(size_of(role) for role in fit.roles)
        rows.append([stage, roles, *cells, activations, logits, total, *fits])
    return Table(f"memory a GPU in GiB, {expect.gpus} GPU(s)", columns, rows)


def cost_table(expect: Expect, stages: Sequence[StageEstimate]) -> Table:
    """Rows, steps, arithmetic, hours, tokens and money of each stage, and in all."""
    columns: Columns = ["stage", Column("rows", ",.0f"), "steps x batch", Column("PFLOP", ",.0f")]
    columns += [Column("GPU-hours", ",.1f"), Column("requests", ",.0f"), "tokens read", "written"]
    columns += [Column("server GPU-hours", ",.1f"), Column("USD", ",.2f")]
    columns.append(Column("note", align="left"))
    money = [usd for stage in stages if (usd := stage.usd(expect))]
    total: list[Cell] = ["all", *[""] * 3, sum(s.gpu_hours for s in stages), *[""] * 3]
    total += [sum(s.server_hours for s in stages), sum(money) if money else "", ""]
    return Table("time and cost", columns, [_costs(each, expect) for each in stages], total)


def _costs(stage: StageEstimate, expect: Expect) -> list[Cell]:
    fit, labels = stage.fit, stage.labels
    training: list[Cell] = ["", ""]
    if fit is not None:
        batch = fit.effective_batch
        training[0] = "" if fit.rows is None else f"{fit.rows / batch:,.0f} x {batch}"
        training[1] = (fit.flops + fit.decode_flops) / 1e15
    tokens: list[Cell] = ["", "", ""]
    if labels is not None:
        millions = [f"{count / MILLION:,.1f} M" for count in (labels.read, labels.written)]
        tokens = [labels.calls, *millions]
    return [
        stage.stage,
        "" if stage.rows is None else stage.rows,
        *training,
        stage.gpu_hours or "",
        *tokens,
        stage.server_hours or "",
        stage.usd(expect) or "",
        " ".join(part for part in (stage.labeler or "", stage.note) if part),
    ]


def size_of(role: Role) -> str:
    """Weights of a role, in words."""
    parts = [(role.trained, "trained"), (role.frozen, "frozen")]
    sizes = [
        f"{n / BILLION:.2f}B {word}" if n >= 1e8 else f"{n / MILLION:.1f}M {word}"
        for n, word in parts
        if n
    ]
    return f"{role.name} " + " + ".join(sizes)


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
