"""Commands are run through the command line, in this process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli


@pytest.fixture
def command(tmp_path) -> Callable[..., dict]:
    """Return a runner of ``COMMAND --out tmp_path/out ...`` that returns its metrics."""

    def run(name: str, *words: str, status: int = 0) -> dict:
        out = tmp_path / "out"
        assert cli.main([*name.split(), *words, "--out", str(out)]) == status
        metrics = out / "metrics.json"
        return json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    """Return the folder that ``command`` writes to."""
    return tmp_path / "out"


@pytest.fixture
def labeler(tiny_model_folder) -> list[str]:
    """Return the options of a tiny likelihood labeler."""
    return [
        "--labeler=rlaif_pl.labeling.LikelihoodLabeler",
        f"--labeler.backend={tiny_model_folder}",
    ]
