"""What every stage of an experiment takes: memory, time, tokens, money. Orders of magnitude, stated.

Nothing is downloaded, loaded or run: sizes come from a table, local configs and ``expect``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlaif_pl.pipeline.estimate_expect import (
    Expect,
    at,
    model_shape,
    read_expect,
    rows_of,
    stage_of,
)
from rlaif_pl.pipeline.estimate_labels import LabelCost, label_cost, model_of, price_in
from rlaif_pl.pipeline.estimate_training import Fit, estimate_fit
from rlaif_pl.pipeline.experiment import Experiment, Stage
from rlaif_pl.pipeline.yaml_files import Value

NO_ROWS = "rows not known: give expect.rows"
SAMPLES = {"sample": 2, "select": 1, "evaluate policy": 4}  # a prompt, where a config does not say


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage takes.

    Attributes:
        stage: Its name.
        command: Its command.
        fit: Of a training stage.
        labels: Of a stage that asks a labeler.
        labeler: Name of the labeler's model.
        rows: Prompts or pairs it goes through; None where that is not known.
        gpu_hours: Of our own GPUs.
        server_hours: GPU-hours of the labeler's model.
        note: What is missing.
    """

    stage: str
    command: str
    fit: Fit | None = None
    labels: LabelCost | None = None
    labeler: str | None = None
    rows: float | None = None
    gpu_hours: float = 0.0
    server_hours: float = 0.0
    note: str = ""


def estimate(experiment: Experiment) -> tuple[Expect, list[StageEstimate]]:
    """Estimate every stage.

    Raises:
        ValueError: ``expect`` is wrong.
    """
    expect = read_expect(experiment)
    return expect, [estimate_stage(experiment, stage, expect) for stage in experiment.stages]


def estimate_stage(experiment: Experiment, stage: Stage, expect: Expect) -> StageEstimate:
    """Estimate one stage; one that nothing is known of says so."""
    content = experiment.resolve(stage, "${out}")
    if stage.command == "fit":
        return _fit(experiment, stage, content, expect)
    if stage.command in ("sample", "evaluate policy", "select"):
        return _sampling(experiment, stage, content, expect)
    if stage.command in ("label", "evaluate alignment"):
        source = content.get("pairs") or content.get("data")
        rows = rows_of(source, experiment, expect)
        gold = rows_of(content["gold"], experiment, expect) if content.get("gold") else 0.0
        total = None if rows is None else rows + (gold or 0.0)
        return _judging(experiment, stage, content, rows, total, expect)
    if stage.command == "evaluate harmless":  # both policies' responses, each read once
        rows = _sampled_rows(experiment, content.get("samples"), expect)
        return _judging(experiment, stage, content, rows, rows, expect)
    if stage.command == "evaluate reward":
        return _scoring(experiment, stage, content, expect)
    if stage.command in ("report", "export"):
        return StageEstimate(stage.name, stage.command, note="minutes, no GPU")
    return StageEstimate(stage.name, stage.command, note="no estimate for this command")


def _judging(
    experiment: Experiment,
    stage: Stage,
    content: Mapping[str, Value],
    rows: float | None,
    asked: float | None,
    expect: Expect,
) -> StageEstimate:
    """A stage that only asks its labeler."""
    cost, labeler, server, note = _labeling(experiment, content.get("labeler"), asked, expect)
    return StageEstimate(stage.name, stage.command, None, cost, labeler, rows, 0.0, server, note)


def _fit(
    experiment: Experiment, stage: Stage, content: Mapping[str, Value], expect: Expect
) -> StageEstimate:
    fit = estimate_fit(content, experiment, expect)
    if isinstance(fit, str):
        return StageEstimate(stage.name, stage.command, note=fit)
    hours = expect.hours(fit.flops) + expect.hours(fit.decode_flops, expect.decode_utilization)
    note = "" if fit.rows else NO_ROWS
    labels, labeler, server = None, None, 0.0
    reward = at(dict(content), "model.init_args.reward")
    asked = at(reward, "init_args.labeler")
    if asked is not None:  # direct RLAIF: the labeler is asked for every response
        drawn = (fit.rows or 0.0) * float(_int(at(dict(content), "model.init_args.sampling.n"), 4))
        labels, labeler, server, missing = _labeling(experiment, asked, drawn / 2, expect)
        note = note or missing
    return StageEstimate(
        stage.name, stage.command, fit, labels, labeler, fit.rows, hours, server, note
    )


def _sampling(
    experiment: Experiment, stage: Stage, content: Mapping[str, Value], expect: Expect
) -> StageEstimate:
    """``sample``, ``evaluate policy`` and ``select``: responses, then perhaps comparisons of them."""
    rows = rows_of(content.get("prompts"), experiment, expect)
    name = at(dict(content), "policy.name") or f"{content.get('run')}/policy"
    shape = model_shape(str(name), experiment, expect)
    if rows is None or shape is None:
        missing = NO_ROWS if rows is None else f"size of {name} not known"
        return StageEstimate(stage.name, stage.command, rows=rows, note=missing)
    policies = 1.0
    each = float(_int(at(dict(content), "sampling.n"), SAMPLES[stage.command]))
    if stage.command != "sample":
        policies = 2.0 if stage.command == "evaluate policy" else 1.0 + _int(content.get("k"), 4)
    is_greedy = each == 1 and at(dict(content), "sampling.temperature") == 0
    besides = float(stage.command == "evaluate policy" and not is_greedy)  # the likeliest response
    written = rows * policies * (each + besides) * expect.response_tokens
    prompt, length = expect.prompt_tokens, expect.prompt_tokens + expect.response_tokens
    hours = expect.hours(shape.forward_flops(rows * policies * (1 + besides) * prompt, prompt))
    decode = shape.forward_flops(written, length, written)
    hours += expect.hours(decode, expect.decode_utilization)
    if stage.command == "sample":
        return StageEstimate(stage.name, stage.command, rows=rows, gpu_hours=hours)
    pairs = rows * (each * each + besides) * (policies - 1)
    labels, labeler, server, note = _labeling(experiment, content.get("labeler"), pairs, expect)
    return StageEstimate(
        stage.name, stage.command, None, labels, labeler, rows, hours, server, note
    )


def _labeling(
    experiment: Experiment, labeler: Value, pairs: float | None, expect: Expect
) -> tuple[LabelCost | None, str | None, float, str]:
    """Cost of comparisons: requests and tokens, the model, its GPU-hours, and what is missing."""
    if pairs is None:
        return None, None, 0.0, NO_ROWS
    kind = labeler if isinstance(labeler, str) else at(labeler, "class_path") or "likelihood"
    options = at(labeler, "init_args")
    settings = options if isinstance(options, dict) else {}
    cost = label_cost(
        str(kind),
        settings,
        pairs,
        expect.prompt_tokens,
        expect.response_tokens,
        expect.rationale_tokens,
    )
    name = model_of(settings)
    if cost is None:
        return None, name, 0.0, f"no estimate for {kind}"
    price = price_in(settings)
    cost = cost if price is None else cost.priced(*price)
    shape = None if name is None else model_shape(name, experiment, expect)
    if shape is None:
        return cost, name, 0.0, "" if price else f"size of {name} not known"
    length = cost.read / max(cost.requests, 1.0)
    hours = expect.hours(shape.forward_flops(cost.read, length, cost.requests))
    decode = shape.forward_flops(cost.written, length, cost.written)
    return cost, name, hours + expect.hours(decode, expect.server_utilization), ""


def _scoring(
    experiment: Experiment, stage: Stage, content: Mapping[str, Value], expect: Expect
) -> StageEstimate:
    """``evaluate reward``: both responses of each pair, read once."""
    rows = rows_of(content.get("gold"), experiment, expect)
    name = at(dict(content), "reward.init_args.backbone.name")
    shape = model_shape(str(name), experiment, expect) if name else None
    if rows is None or shape is None:
        missing = NO_ROWS if rows is None else f"size of {name} not known"
        return StageEstimate(stage.name, stage.command, rows=rows, note=missing)
    length = expect.prompt_tokens + expect.response_tokens
    hours = expect.hours(shape.forward_flops(2 * rows * length, length))
    return StageEstimate(stage.name, stage.command, rows=rows, gpu_hours=hours)


def _sampled_rows(experiment: Experiment, samples: Value, expect: Expect) -> float | None:
    """Prompts of the stage that wrote a file of samples."""
    maker = stage_of(str(samples), experiment)
    if maker is None:
        return rows_of(samples, experiment, expect)
    stage = next(each for each in experiment.stages if each.name == maker)
    return rows_of(experiment.resolve(stage, "${out}").get("prompts"), experiment, expect)


def _int(value: Value, default: int) -> int:
    return value if isinstance(value, int) else default
