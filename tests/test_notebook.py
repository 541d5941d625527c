"""The notebook runs from its first cell to its last, over the tiny model and a small budget."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
PARAMETERS = "MODEL, TRUNK, PROMPTS, STEPS = {model!r}, 2, 8, 2"


@pytest.fixture(scope="module")
def cells(tiny_model_folder, tmp_path_factory):
    """Execute the notebook in an empty folder; returns its code cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    given = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    given.source = PARAMETERS.format(model=str(tiny_model_folder))
    folder = tmp_path_factory.mktemp("notebook")
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, startup_timeout=300, resources=place).execute()
    assert list(folder.iterdir()) == []  # all in memory
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells, kind):
    """Return what the cells displayed, of one MIME type."""
    outputs = [output for cell in cells for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_it_shows_tables_and_curves(cells):
    tables = shown(cells, "text/markdown")
    assert len(tables) == 5
    assert "| comparison | wins | at equal length | judge |" in tables[-2]
    assert "| post | SFT | A2C |" in tables[-1]
    assert len(shown(cells, "image/png")) == 3


def test_a_swapped_pair_has_the_label_of_the_other_side(cells):
    asked = shown(cells, "text/markdown")[2].splitlines()[2:]
    first, second = (float(line.split("|")[1]) for line in asked)
    assert first + second == pytest.approx(1.0, abs=2e-3)


def test_the_file_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
