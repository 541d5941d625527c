"""What every stage of an experiment takes: memory, time, tokens, money. Orders of magnitude, stated.

Nothing is downloaded, loaded or run; a labeler's requests are those that it writes for a made-up pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from rlaif_pl.labeling.registry import LABELERS, build_labeler
from rlaif_pl.labeling.usage.projection import CHARACTERS_PER_TOKEN, Projection, estimate_cost
from rlaif_pl.pipeline.estimate_inputs import Expect, Inputs
from rlaif_pl.pipeline.estimate_training import CONTEXT_BYTES, GIB, Fit, rewards_at
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value, at, number_at
from rlaif_pl.tables import Cell, Column, Columns, Rows, Table
from rlaif_pl.types import Labeler, Preference

NO_ROWS = "rows not known: give expect.rows"
SAMPLES = {"sample": 2, "select": 1, "evaluate policy": 4}  # a prompt, where a config does not say
CARDS_GIB = (24, 40, 80, 141)
USABLE = 0.9  # of a card; the rest goes to fragments of the allocator


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage takes; a note says what is missing."""

    stage: str = ""
    fit: Fit | None = None
    labels: Projection | None = None
    labeler: str | None = None  # name of the model that labels; of several, of each
    rows: float | None = None  # prompts or pairs; None where that is not known
    gpu_hours: float = 0.0
    server_hours: float = 0.0  # GPU-hours of the labeler's model
    unpriced_hours: float = 0.0  # of these, the hours of models whose tokens have no price
    note: str = ""

    def usd(self, expect: Expect) -> float | None:
        """Money: tokens at their prices, GPU-hours at theirs; None where nothing has a price."""
        tokens = None if self.labels is None else self.labels.cost_usd
        if expect.usd_per_gpu_hour is None:
            return tokens
        return (tokens or 0.0) + (self.gpu_hours + self.unpriced_hours) * expect.usd_per_gpu_hour


def estimate(experiment: Experiment) -> tuple[Expect, list[StageEstimate]]:
    """Estimate every stage; one that nothing is known of says so."""
    inputs = Inputs(experiment)
    return inputs.expect, [
        replace(_stage(each.command, experiment.resolve(each, "${out}"), inputs), stage=each.name)
        for each in experiment.stages
    ]


def _stage(command: str, content: dict[str, Value], inputs: Inputs) -> StageEstimate:
    if command == "fit":
        return _fit(content, inputs)
    if command in SAMPLES:
        return _sampling(command, content, inputs)
    gold = inputs.rows(content["gold"]) if content.get("gold") else None
    if command == "evaluate reward":  # both responses of each pair, read once
        read = 2 * (inputs.expect.prompt_tokens + inputs.expect.response_tokens)
        return _run(str(at(content, "reward.init_args.backbone.name")), gold, read, 0.0, inputs)
    if command not in ("label", "evaluate alignment", "evaluate harmless"):
        is_known = command in ("report", "export")
        return StageEstimate(note="minutes, no GPU" if is_known else "no estimate for this command")
    source = content.get("pairs") or content.get("data")
    if command == "evaluate harmless":  # both policies' responses, each read once
        samples, gold = content.get("samples"), None
        source = inputs.maker(str(samples))[1].get("prompts") or samples
    rows = inputs.rows(source)
    asked = None if rows is None else rows + (gold or 0.0)
    return replace(_labeling(content.get("labeler"), asked, inputs), rows=rows)


def _fit(content: dict[str, Value], inputs: Inputs) -> StageEstimate:
    expect = inputs.expect
    try:
        fit = Fit(content, inputs)
    except ValueError as error:
        return StageEstimate(note=str(error))
    asked = [at(options, "labeler") for options in rewards_at(fit.model)]
    pairs = (fit.rows or 0.0) * fit.drawn / 2  # direct RLAIF: each is asked for every response
    labels = _together([_labeling(labeler, pairs, inputs) for labeler in asked if labeler])
    hours = expect.hours(fit.flops) + expect.hours(fit.decode_flops, expect.decode_utilization)
    note = labels.note if fit.rows else NO_ROWS
    return replace(labels, fit=fit, rows=fit.rows, gpu_hours=hours, note=note)


def _sampling(command: str, content: dict[str, Value], inputs: Inputs) -> StageEstimate:
    """``sample``, ``evaluate policy`` and ``select``: responses, then perhaps comparisons of them."""
    expect, rows = inputs.expect, inputs.rows(content.get("prompts"))
    each = number_at(content, "sampling.n", SAMPLES[command])
    is_greedy = each == 1 and at(content, "sampling.temperature") == 0
    besides = float(command == "evaluate policy" and not is_greedy)  # the likeliest response
    policies = {"sample": 1.0, "evaluate policy": 2.0}.get(command, 1 + number_at(content, "k", 4))
    read = policies * (1 + besides) * expect.prompt_tokens
    written = policies * (each + besides) * expect.response_tokens
    name = at(content, "policy.name") or f"{content.get('run')}/policy"
    found = _run(str(name), rows, read, written, inputs)
    if command == "sample" or found.note or rows is None:
        return found
    pairs, told = (each * each + besides) * (policies - 1), ""
    if command == "evaluate policy":  # both policies' responses beside the reference, too
        pairs, told = pairs + 2 * (each + besides), "if prompts have references"
        if at(content, "reward.init_args.labeler") is not None:  # another, asked besides
            told += "; without the reward's labeler"
    labels = _labeling(content.get("labeler"), rows * pairs, inputs)
    return replace(labels, rows=rows, gpu_hours=found.gpu_hours, note=labels.note or told)


def _run(name: str, rows: float | None, read: float, write: float, inputs: Inputs) -> StageEstimate:
    """A model that reads and writes so many tokens a row."""
    if rows is None:
        return StageEstimate(note=NO_ROWS)
    length = inputs.expect.prompt_tokens + inputs.expect.response_tokens
    rate = inputs.expect.decode_utilization
    hours = _hours(name, rows * read, rows * write, length, rate, inputs)
    note = f"size of {name} not known" if hours is None else ""
    return StageEstimate(rows=rows, gpu_hours=hours or 0.0, note=note)


def _hours(
    name: str, read: float, written: float, length: float, rate: float, inputs: Inputs
) -> float | None:
    """GPU-hours of reading texts of some length and writing tokens; None for a model of no size."""
    shape, expect = inputs.shape(name), inputs.expect
    if shape is None:
        return None
    writing = expect.hours(shape.forward_flops(written, length, written), rate)
    return expect.hours(shape.forward_flops(read, length)) + writing


def _labeling(labeler: Value, pairs: float | None, inputs: Inputs) -> StageEstimate:
    """What a labeler asks about a made-up pair, times the pairs, and GPU-hours of its model."""
    if pairs is None:
        return StageEstimate(note=NO_ROWS)
    backend = at(labeler, "init_args.backend")
    model = at(backend, "init_args.model") if isinstance(backend, dict) else backend
    name = str(model or "smollm2-135m")
    found = StageEstimate(labeler=name.removeprefix("${out}/"))
    try:
        cost = label_cost(build(labeler or "likelihood"), round(pairs), inputs.expect)
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        return replace(found, note=f"no estimate: {' '.join(str(error).split())}")
    if cost is None:
        return replace(found, note="no estimate for this labeler")
    length, rate = cost.read / max(cost.calls, 1), inputs.expect.server_utilization
    hours = _hours(name, cost.read, cost.written, length, rate, inputs)
    is_unknown = hours is None and cost.cost_usd is None
    note = f"size of {found.labeler} not known" if is_unknown else ""
    spent = hours or 0.0, 0.0 if cost.cost_usd is not None else hours or 0.0
    return replace(found, labels=cost, server_hours=spent[0], unpriced_hours=spent[1], note=note)


def _together(parts: Sequence[StageEstimate]) -> StageEstimate:
    """Add up what several labelers take."""
    known = [part.labels for part in parts if part.labels is not None]
    costs = [cost.cost_usd for cost in known if cost.cost_usd is not None]
    names = ("calls", "rounds", "read", "written", "reread")
    sums = {name: sum(getattr(cost, name) for cost in known) for name in names}
    return StageEstimate(
        labels=replace(known[0], cost_usd=sum(costs) if costs else None, **sums) if known else None,
        labeler=", ".join(dict.fromkeys(part.labeler for part in parts if part.labeler)) or None,
        server_hours=sum(part.server_hours for part in parts),
        unpriced_hours=sum(part.unpriced_hours for part in parts),
        note="; ".join(dict.fromkeys(part.note for part in parts if part.note)),
    )


def label_cost(labeler: Labeler, pairs: int, expect: Expect) -> Projection | None:
    """Project what a labeler asks about pairs of the expected lengths; None where nobody knows."""
    prompt = round(CHARACTERS_PER_TOKEN * expect.prompt_tokens)
    response = round(CHARACTERS_PER_TOKEN * expect.response_tokens)
    made_up = [Preference("p" * prompt, "a" * response, "b" * response, "made up")][:pairs]
    texts = expect.rationale_tokens
    return estimate_cost(labeler, made_up, sample=1, text_tokens=texts, total=pairs)


def build(labeler: Value) -> Labeler:
    """Build a labeler from its name or config; it loads no model before it is asked."""
    if isinstance(labeler, str) and labeler in LABELERS:
        return build_labeler(labeler)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=Labeler)
    return parser.instantiate(parser.parse_object({"it": _on_any_machine(labeler)})).it


def _on_any_machine(config: Value) -> Value:
    """Leave out devices that may not be here and files that stages are still to write."""
    if isinstance(config, list):
        return [_on_any_machine(item) for item in config]
    if not isinstance(config, dict):
        return config
    here = {k: v for k, v in config.items() if k != "device" and not str(v).startswith("${out}")}
    return {key: _on_any_machine(value) for key, value in here.items()}


def show_estimates(console: Console, expect: Expect, stages: Sequence[StageEstimate]) -> None:
    """Print memory by role, time and money by stage, and what they rest on."""
    titles = ("weights", "gradients", "optimizer", "kept / recomputed", "logits", "total")
    columns: Columns = ["stage", Column("parameters", align="left"), *titles]
    columns += [f"{card} GiB" for card in CARDS_GIB]
    rows: Rows = []
    for stage, fit in ((each.stage, each.fit) for each in stages if each.fit):
        held, roles = fit.memory(), [f"{r.name} {_weights(r.trained, r.frozen)}" for r in fit.roles]
        cells = [_gib(size) for size in (held.weights, held.gradients, held.optimizer)]
        cells.append(" / ".join(_gib(fit.activations(flag)) for flag in (False, True)))
        cells += [_gib(held.logits), _gib(held.total)]
        cells += ["fits" if held.total <= USABLE * card * GIB else "no" for card in CARDS_GIB]
        rows.append([stage, tuple(roles), *cells])
    if rows:
        title = f"memory a GPU in GiB, {expect.gpus} GPU(s)"
        console.print(Table(title, columns, rows).rich())
        console.print(
            f"Estimates, for a GPU and batch at the longest prompt ({expect.longest:.0f} tokens); "
            f"total with {CONTEXT_BYTES / GIB:.0f} GiB for driver and libraries; {USABLE:.0%} of a "
            "card are counted as usable. 'kept / recomputed': activations without and with "
            "gradient_checkpointing.",
            highlight=False,
        )
    console.print(_cost_table(expect, stages).rich())
    money = expect.usd_per_gpu_hour
    price = "no price a GPU-hour given" if money is None else f"{money:g} USD a GPU-hour"
    console.print(
        f"Estimates at {expect.tflops:.0f} TFLOP/s a GPU, {expect.utilization:.0%} of it in training "
        f"and scoring, {expect.decode_utilization:.1%} in sampling, {expect.server_utilization:.0%} "
        f"for tokens a labeling server writes; {expect.prompt_tokens:.0f} tokens a prompt, "
        f"{expect.response_tokens:.0f} a response; {price}. Change them with `expect` in the "
        "experiment file.",
        highlight=False,
    )


def _cost_table(expect: Expect, stages: Sequence[StageEstimate]) -> Table:
    columns: Columns = ["stage", Column("rows", ",.0f"), "steps x batch", Column("PFLOP", ",.0f")]
    columns += [Column("GPU-hours", ",.1f"), Column("requests", ",.0f"), "tokens read", "written"]
    columns += [Column("server GPU-hours", ",.1f"), Column("USD", ",.2f")]
    columns.append(Column("note", align="left"))
    rows: Rows = []
    for stage in stages:
        cells: list[Cell] = [stage.stage, "" if stage.rows is None else stage.rows, "", ""]
        if fit := stage.fit:
            batch = fit.effective_batch
            cells[2] = "" if fit.rows is None else f"{fit.rows / batch:,.0f} x {batch}"
            cells[3] = (fit.flops + fit.decode_flops) / 1e15
        cells += [stage.gpu_hours or "", "", "", ""]
        if labels := stage.labels:
            millions = (f"{n / 1e6:,.1f} M" for n in (labels.read, labels.written))
            cells[5:] = [labels.calls, *millions]
        note = " ".join(part for part in (stage.labeler, stage.note) if part)
        rows.append([*cells, stage.server_hours or "", stage.usd(expect) or "", note])
    money = [usd for stage in stages if (usd := stage.usd(expect))]
    total: list[Cell] = ["all", *[""] * 3, sum(s.gpu_hours for s in stages), *[""] * 3]
    total += [sum(s.server_hours for s in stages), sum(money) if money else "", ""]
    return Table("time and cost", columns, rows, total)


def _weights(trained: int, frozen: int) -> str:
    known = [(n, kind) for n, kind in ((trained, "trained"), (frozen, "frozen")) if n]
    return " + ".join(
        f"{n / 1e9:.2f}B {kind}" if n >= 1e8 else f"{n / 1e6:.1f}M {kind}" for n, kind in known
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
