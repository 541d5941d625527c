"""What every stage of an experiment takes: memory, time, tokens, money. Orders of magnitude, stated.

Nothing is downloaded, loaded or run: sizes come from a table, local configs and ``expect``; a labeler's
requests are those that it writes out for a made-up pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jsonargparse import ArgumentError, ArgumentParser

from rlaif_pl.labeling.registry import LABELERS
from rlaif_pl.labeling.usage.projection import CHARACTERS_PER_TOKEN, Projection, estimate_cost
from rlaif_pl.pipeline.estimate_inputs import Expect, Inputs, at, number_at
from rlaif_pl.pipeline.estimate_models import ModelShape
from rlaif_pl.pipeline.estimate_training import Fit
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value
from rlaif_pl.types import Labeler, Preference

NO_ROWS = "rows not known: give expect.rows"
SAMPLES = {"sample": 2, "select": 1, "evaluate policy": 4}  # a prompt, where a config does not say


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage takes; a note says what is missing."""

    stage: str = ""
    fit: Fit | None = None
    labels: Projection | None = None
    labeler: str | None = None  # name of the model that labels
    rows: float | None = None  # prompts or pairs; None where that is not known
    gpu_hours: float = 0.0
    server_hours: float = 0.0  # GPU-hours of the labeler's model
    note: str = ""

    def usd(self, expect: Expect) -> float | None:
        """Money: tokens at their prices, GPU-hours at theirs; None where nothing has a price."""
        tokens = None if self.labels is None else self.labels.cost_usd
        if expect.usd_per_gpu_hour is None:
            return tokens
        hours = self.gpu_hours + (self.server_hours if tokens is None else 0.0)
        return (tokens or 0.0) + hours * expect.usd_per_gpu_hour


def estimate(experiment: Experiment) -> tuple[Expect, list[StageEstimate]]:
    """Estimate every stage; one that nothing is known of says so."""
    inputs = Inputs(experiment)
    stages = [
        replace(
            _stage(stage.command, experiment.resolve(stage, "${out}"), inputs), stage=stage.name
        )
        for stage in experiment.stages
    ]
    return inputs.expect, stages


def _stage(command: str, content: dict[str, Value], inputs: Inputs) -> StageEstimate:
    if command == "fit":
        return _fit(content, inputs)
    if command in SAMPLES:
        return _sampling(command, content, inputs)
    if command == "evaluate reward":  # both responses of each pair, read once
        name, tokens = at(content, "reward.init_args.backbone.name"), inputs.expect.text_tokens
        return _run(str(name), inputs.rows(content.get("gold")), 2 * tokens, 0.0, inputs)
    if command in ("label", "evaluate alignment"):
        rows = inputs.rows(content.get("pairs") or content.get("data"))
        gold = inputs.rows(content["gold"]) if content.get("gold") else None
        asked = None if rows is None else rows + (gold or 0.0)
        return replace(_labeling(content.get("labeler"), asked, inputs), rows=rows)
    if command == "evaluate harmless":  # both policies' responses, each read once
        samples = content.get("samples")
        rows = inputs.rows(inputs.maker(str(samples))[1].get("prompts") or samples)
        return replace(_labeling(content.get("labeler"), rows, inputs), rows=rows)
    is_known = command in ("report", "export")
    return StageEstimate(note="minutes, no GPU" if is_known else "no estimate for this command")


def _fit(content: dict[str, Value], inputs: Inputs) -> StageEstimate:
    expect = inputs.expect
    try:
        fit = Fit(content, inputs)
    except ValueError as error:
        return StageEstimate(note=str(error))
    labels = StageEstimate()
    asked = at(content, "model.init_args.reward.init_args.labeler")
    if asked is not None:  # direct RLAIF: the labeler is asked for every response
        labels = _labeling(asked, (fit.rows or 0.0) * fit.drawn / 2, inputs)
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
    pairs = (each * each + besides) * (policies - 1)
    told = ""
    if command == "evaluate policy":  # both policies' responses beside the reference, too
        pairs, told = pairs + 2 * (each + besides), "if prompts have references"
        if at(content, "reward.init_args.labeler") is not None:  # another, asked besides
            told += "; without the reward's labeler"
    labels = _labeling(content.get("labeler"), rows * pairs, inputs)
    note = labels.note or told
    return replace(labels, rows=rows, gpu_hours=found.gpu_hours, note=note)


def _run(
    name: str, rows: float | None, read: float, written: float, inputs: Inputs
) -> StageEstimate:
    """A model that reads and writes so many tokens a row."""
    shape, expect = inputs.shape(name), inputs.expect
    if rows is None or shape is None:
        missing = NO_ROWS if rows is None else f"size of {name} not known"
        return StageEstimate(rows=rows, note=missing)
    hours = _hours(
        shape, rows * read, rows * written, expect.text_tokens, expect.decode_utilization, expect
    )
    return StageEstimate(rows=rows, gpu_hours=hours)


def _hours(
    shape: ModelShape,
    read: float,
    written: float,
    length: float,
    utilization: float,
    expect: Expect,
) -> float:
    """GPU-hours of reading and writing tokens of texts of some length."""
    reading = expect.hours(shape.forward_flops(read, length))
    return reading + expect.hours(shape.forward_flops(written, length, written), utilization)


def _labeling(labeler: Value, pairs: float | None, inputs: Inputs) -> StageEstimate:
    """What a labeler asks about a made-up pair, times the pairs, and GPU-hours of its model."""
    if pairs is None:
        return StageEstimate(note=NO_ROWS)
    expect, spec = inputs.expect, labeler or "likelihood"
    backend = at(spec, "init_args.backend")
    model = at(backend, "init_args.model") if isinstance(backend, dict) else backend
    name = str(model or "smollm2-135m")
    called = name.removeprefix("${out}/")
    try:
        cost = label_cost(build(spec), round(pairs), expect)
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        return StageEstimate(labeler=called, note=f"no estimate: {' '.join(str(error).split())}")
    if cost is None:
        return StageEstimate(labeler=called, note="no estimate for this labeler")
    shape, length = inputs.shape(name), cost.read / max(cost.calls, 1)
    if shape is None:
        note = f"size of {called} not known" if cost.cost_usd is None else ""
        return StageEstimate(labels=cost, labeler=called, note=note)
    hours = _hours(shape, cost.read, cost.written, length, expect.server_utilization, expect)
    return StageEstimate(labels=cost, labeler=called, server_hours=hours)


def label_cost(labeler: Labeler, pairs: int, expect: Expect) -> Projection | None:
    """Project what a labeler asks about pairs of the expected lengths; None where nobody knows."""
    prompt, response = (
        round(CHARACTERS_PER_TOKEN * n) for n in (expect.prompt_tokens, expect.response_tokens)
    )
    pair = Preference("p" * prompt, "a" * response, "b" * response, "made up")
    return estimate_cost(
        labeler, [pair][:pairs], sample=1, text_tokens=expect.rationale_tokens, total=pairs
    )


def build(labeler: Value) -> Labeler:
    """Build a labeler from its name or config; it loads no model before it is asked."""
    kind = LABELERS.get(labeler) if isinstance(labeler, str) else None
    if kind is not None:
        labeler = {"class_path": f"{kind.__module__}.{kind.__name__}"}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=Labeler)
    return parser.instantiate(parser.parse_object({"it": _on_any_machine(labeler)})).it


def _on_any_machine(config: Value) -> Value:
    """Leave out devices that may not be here and files that stages are still to write."""
    if isinstance(config, list):
        return [_on_any_machine(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _on_any_machine(value)
        for key, value in config.items()
        if key != "device" and not (isinstance(value, str) and value.startswith("${out}"))
    }
