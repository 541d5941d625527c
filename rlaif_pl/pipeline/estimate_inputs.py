"""What estimates reckon with: the key ``expect``, rows of data sets and sizes of models."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import cast

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from rlaif_pl.pipeline.estimate_models import ModelShape, known, known_shape, shape_of_size
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value

LONGEST = 1.5  # the longest text of a batch over the mean, where nothing says
BACKBONES = ("", "reward.init_args.", "actor.init_args.")


@dataclass(frozen=True, slots=True)
class Expect:
    """Assumptions of the estimates; nothing is trained differently for them."""

    gpus: PositiveInt = 1  # that train together (``trainer.devices: auto`` is not known beforehand)
    tflops: PositiveFloat = 312.0  # peak of one GPU in 16 bits, dense: an A100; 989 is an H100
    utilization: PositiveFloat = 0.35  # share of the peak in training and scoring, in (0, 1]
    decode_utilization: PositiveFloat = 0.01  # share while sampling: our own loop, one token a pass
    server_utilization: PositiveFloat = 0.1  # share that a server reaches on the tokens it writes
    usd_per_gpu_hour: PositiveFloat | None = None  # None counts no money
    prompt_tokens: PositiveFloat = 400.0  # mean of a prompt
    longest_prompt: PositiveFloat | None = None  # memory's; None: 1.5 times the mean
    response_tokens: PositiveFloat = 40.0  # mean of a response
    rationale_tokens: PositiveFloat = 61.0  # of a text a labeler writes: 2309.00267, appendix L
    # of sources, by name, or name:split
    rows: dict[str, PositiveFloat] = field(default_factory=dict)
    num_params: dict[str, PositiveFloat] = field(default_factory=dict)  # of models not in the table

    @property
    def text_tokens(self) -> float:
        """Mean tokens of a prompt with a response."""
        return self.prompt_tokens + self.response_tokens

    @property
    def longest(self) -> float:
        """Tokens of the longest prompt of a batch."""
        return LONGEST * self.prompt_tokens if self.longest_prompt is None else self.longest_prompt

    def hours(self, flops: float, utilization: PositiveFloat | None = None) -> float:
        """GPU-hours of so many floating-point operations."""
        return flops / (self.tflops * 1e12 * (utilization or self.utilization) * 3600)


def read_expect(experiment: Experiment) -> Expect:
    """Read the assumptions of an experiment; ValueError names the keys there are."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Expect, "expect")
    try:
        return parser.instantiate(parser.parse_object({"expect": dict(experiment.expect)})).expect
    except ArgumentError as error:
        known = ", ".join(each.name for each in fields(Expect))
        said = " ".join(str(error).split())
        raise ValueError(f"{experiment.file}: {said}; keys of expect: {known}") from error


class Inputs:
    """Sizes of what an experiment's stages read, some of it made by stages before them."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.expect = read_expect(experiment)

    def maker(self, name: str) -> tuple[str, dict[str, Value]]:
        """Command and config of the stage whose folder a path lies in; "" where it is another."""
        if name.startswith("${out}/"):
            first = name.removeprefix("${out}/").split("/", 1)[0]
            for stage in self.experiment.stages:
                if stage.name == first:
                    return stage.command, self.experiment.resolve(stage, "${out}")
        return "", {}

    def shape(self, name: str) -> ModelShape | None:
        """A model's size: given, known, on disk, or that of the model an earlier stage starts from."""
        given = self.expect.num_params.get(name)
        if isinstance(given, int | float):
            return shape_of_size(float(given))
        shape = known_shape(name)
        if shape is not None:
            return shape
        _, content = self.maker(name)
        for place in BACKBONES:
            inner = at(content, f"model.init_args.{place}backbone.name")
            if isinstance(inner, str) and inner != name:
                return self.shape(inner)
        run = content.get("run")  # select exports what an A2C stage trained
        return self.shape(f"{run}/policy") if isinstance(run, str) else None

    def rows(self, source: Value) -> float | None:
        """Rows of a data source, a name or its fields; None where nobody knows."""
        given = source if isinstance(source, dict) else {"name": source}
        name, split, limit = str(given.get("name")), given.get("split", "train"), given.get("limit")
        folder = given.get("data_dir") or given.get("subset")
        full = f"{name}/{folder}" if folder else name
        rows = {**known()["rows"], **self.expect.rows}
        count = rows.get(f"{full}:{split}", rows.get(full))
        if not isinstance(count, int | float):
            count = self._made_rows(name)
        if count is None:
            return float(limit) if isinstance(limit, int) else None
        part = given.get("part")
        if isinstance(part, list) and len(part) == 2:
            count *= cast(float, part[1]) - cast(float, part[0])
        return min(count, limit) if isinstance(limit, int) else float(count)

    def _made_rows(self, name: str) -> float | None:
        """Rows of the pairs that a stage writes: sampled ones, or those it labels."""
        command, content = self.maker(name)
        if command == "label":
            return self.rows(content.get("pairs"))
        if command != "sample":
            return None
        prompts = self.rows(content.get("prompts"))
        return prompts and prompts * number_at(content, "sampling.n", 2) / 2


def at(content: Value, key: str) -> Value:
    """Return what stands at a dotted key; None where there is nothing."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def number_at(content: Value, key: str, default: float) -> float:
    """Return the number that stands at a dotted key."""
    value = at(content, key)
    return float(value) if isinstance(value, int | float) else default
