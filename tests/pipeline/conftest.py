"""A three-stage experiment whose stages are plain functions, so that no process is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif_pl.pipeline import Stage, run

EXPERIMENT = """
name: toy
out: {out}
seed: 3
stages:
  - name: sft
    command: fit
    config: sft.yaml
    set:
      seed_everything: ${{seed}}
      trainer.default_root_dir: ${{stage}}
    produces: [policy.txt]
  - name: label
    command: label
    set: {{policy: "${{out}}/sft/policy.txt"}}
  - name: report
    command: report
    needs: [label]
    set: {{run_dir: "${{out}}"}}
"""


class Toy:
    """The experiment in a folder, with a record of what was launched.

    Attributes:
        launched: Names of the stages launched by the last ``run``.
        code: Exit status to return, by stage.
        metrics: What each stage writes to metrics.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "run"
        self.file = folder / "toy.yaml"
        self.file.write_text(EXPERIMENT.format(out=self.out))
        (folder / "sft.yaml").write_text("optimizer:\n  lr: 1e-4\nmodel: tiny\n")
        self.launched: list[str] = []
        self.code: dict[str, int] = {}
        self.metrics: dict[str, dict[str, float | None]] = {}
        self.before_end: Callable[[Stage, Path], None] = lambda _stage, _folder: None

    def launch(self, stage: Stage, folder: Path) -> int:
        self.launched.append(stage.name)
        with (folder / "log.txt").open("a") as log:
            log.write(f"hello from {stage.name}\n")
        self.before_end(stage, folder)
        if self.code.get(stage.name, 0) == 0:
            for name in stage.produces:
                (folder / name).write_text("made")
            (folder / "metrics.json").write_text(json.dumps(self.metrics.get(stage.name, {})))
        return self.code.get(stage.name, 0)

    def run(self, **options) -> int:
        self.launched = []
        return run(self.file, launch=self.launch, **options)

    def change(self, old: str, new: str, name: str = "toy.yaml") -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)
