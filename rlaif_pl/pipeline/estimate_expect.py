"""What a plan reckons with: the key ``expect`` of an experiment, and how many rows data sets have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import cast

from rlaif_pl.pipeline.estimate_models import ModelShape, known_shape, shape_of_size
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value

# Rows by data set, folder or configuration in it, and split, as their cards and papers count them.
KNOWN_ROWS: dict[str, int] = {
    "tiny_tldr/train": 828,
    "tiny_tldr/dev": 60,
    "tiny_tldr/final": 120,
    "tiny_tldr/pairs": 280,
    "tiny_tldr/faults_dev": 40,
    "tiny_tldr/faults_final": 86,
    "trl-lib/tldr:train": 116722,
    "trl-lib/tldr:validation": 6447,
    "trl-lib/tldr:test": 6553,
    "trl-lib/tldr-preference:train": 92858,
    "openai/summarize_from_feedback/comparisons:train": 92858,
    "openai/summarize_from_feedback/comparisons:validation": 86086,
    "Anthropic/hh-rlhf/helpful-base:train": 43835,
    "Anthropic/hh-rlhf/helpful-base:test": 2354,
    "Anthropic/hh-rlhf/harmless-base:train": 42537,
    "Anthropic/hh-rlhf/harmless-base:test": 2312,
}


@dataclass(frozen=True, slots=True)
class Expect:
    """Assumptions of the estimates; nothing is trained differently for them.

    Attributes:
        gpus: GPUs that train together (``trainer.devices: auto`` is not known beforehand).
        tflops: Peak of one GPU in 16 bits, dense; 312 is an A100, 989 an H100.
        utilization: Share of the peak that training and scoring reach, in (0, 1].
        decode_utilization: Share while sampling: our own loop, one token a pass.
        server_utilization: Share that a serving engine reaches on the tokens it writes.
        usd_per_gpu_hour: Price of a GPU; None counts no money.
        prompt_tokens: Mean tokens of a prompt.
        longest_prompt: Tokens of the longest prompt of a batch, which memory is counted with; None
            takes one and a half times the mean.
        response_tokens: Mean tokens of a response.
        rationale_tokens: Mean tokens of a labeler's rationale.
        rows: Rows of sources, by name, or ``name:split``.
        num_params: Weights of models that are not in the table, by name.
    """

    gpus: int = 1
    tflops: float = 312.0
    utilization: float = 0.35
    decode_utilization: float = 0.01
    server_utilization: float = 0.1
    usd_per_gpu_hour: float | None = None
    prompt_tokens: float = 400.0
    longest_prompt: float | None = None
    response_tokens: float = 40.0
    rationale_tokens: float = 61.0
    rows: Mapping[str, Value] = field(default_factory=dict)
    num_params: Mapping[str, Value] = field(default_factory=dict)

    @property
    def longest(self) -> float:
        """Tokens of the longest prompt of a batch."""
        return 1.5 * self.prompt_tokens if self.longest_prompt is None else self.longest_prompt

    def hours(self, flops: float, utilization: float | None = None) -> float:
        """GPU-hours of so many floating-point operations."""
        return flops / (self.tflops * 1e12 * (utilization or self.utilization) * 3600)


def read_expect(experiment: Experiment) -> Expect:
    """Read the assumptions of an experiment.

    Raises:
        ValueError: A key is unknown or a value has the wrong type or range.
    """
    given = dict(experiment.expect)
    kinds = {each.name: each.name in ("rows", "num_params") for each in fields(Expect)}
    for name, value in given.items():
        where = f"{experiment.file}, expect.{name}"
        if name not in kinds:
            raise ValueError(f"{where}: unknown key; known are {', '.join(kinds)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if kinds[name] and not isinstance(value, dict):
            raise ValueError(f"{where}: expected a mapping of names to numbers, got {value!r}")
        if not kinds[name] and not (is_number and cast(float, value) > 0):
            raise ValueError(f"{where}: expected a number above 0, got {value!r}")
    return Expect(**given)  # type: ignore[arg-type]


def model_shape(name: str, experiment: Experiment, expect: Expect) -> ModelShape | None:
    """Find a model's size: given, known, on disk, or that of the model an earlier stage starts from.

    Args:
        name: ``BackboneOptions.name``, with ``${out}`` for the run folder.
        experiment: Whose stages may make the folder.
        expect: May give ``num_params``.
    """
    given = expect.num_params.get(name)
    if isinstance(given, int | float):
        return shape_of_size(float(given))
    shape = known_shape(name)
    if shape is not None:
        return shape
    maker = stage_of(name, experiment)
    if maker is None:
        return None
    stage = next(stage for stage in experiment.stages if stage.name == maker)
    content = experiment.resolve(stage, "${out}")
    for key in (
        "model.init_args.backbone.name",
        "model.init_args.reward.init_args.backbone.name",
        "model.init_args.actor.init_args.backbone.name",
    ):
        inner = at(content, key)
        if isinstance(inner, str) and inner != name:
            return model_shape(inner, experiment, expect)
    run = content.get("run")  # select exports what an A2C stage trained
    return model_shape(f"{run}/policy", experiment, expect) if isinstance(run, str) else None


def stage_of(name: str, experiment: Experiment) -> str | None:
    """Return the stage whose folder a path lies in; None where it is another path."""
    if not name.startswith("${out}/"):
        return None
    stage = name.removeprefix("${out}/").split("/", 1)[0]
    return stage if stage in {each.name for each in experiment.stages} else None


def rows_of(source: Value, experiment: Experiment, expect: Expect) -> float | None:
    """Rows of a data source; None where nobody knows.

    Args:
        source: A name, or the fields of a ``DataSource``.
        experiment: Whose stages may make the file.
        expect: May give ``rows``.
    """
    fields_ = source if isinstance(source, dict) else {"name": source}
    name = str(fields_.get("name"))
    folder = fields_.get("data_dir") or fields_.get("subset")
    split = str(fields_.get("split", "train"))
    full = f"{name}/{folder}" if folder else name
    known: Mapping[str, Value] = {**KNOWN_ROWS, **expect.rows}
    found = next((known[k] for k in (f"{full}:{split}", full) if k in known), None)
    count = float(found) if isinstance(found, int | float) else None
    maker = stage_of(name, experiment)
    if count is None and maker is not None:
        count = _made_rows(maker, experiment, expect)
    if count is None:
        return float(cast(int, fields_["limit"])) if fields_.get("limit") else None
    part = fields_.get("part")
    if isinstance(part, list) and len(part) == 2:
        count *= float(cast(float, part[1])) - float(cast(float, part[0]))
    limit = fields_.get("limit")
    return min(count, float(limit)) if isinstance(limit, int) else count


def _made_rows(name: str, experiment: Experiment, expect: Expect) -> float | None:
    """Rows of the pairs that a stage writes: sampled ones, or those it labels."""
    stage = next(each for each in experiment.stages if each.name == name)
    content = experiment.resolve(stage, "${out}")
    if stage.command == "label":
        return rows_of(content.get("pairs"), experiment, expect)
    if stage.command != "sample":
        return None
    prompts = rows_of(content.get("prompts"), experiment, expect)
    drawn = at(dict(content), "sampling.n")
    return prompts * drawn / 2 if prompts and isinstance(drawn, int) else prompts


def at(content: Value, key: str) -> Value:
    """Return what stands at a dotted key; None where there is nothing."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
