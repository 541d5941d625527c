"""Where real preference data may be, and files of rows."""

import json
import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data():
    """Return the folder of real data, or skip."""
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("RLAIF_PL_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RLAIF_PL_DATA")
    return folder


@pytest.fixture
def write(tmp_path):
    """Return a writer of rows as JSON lines; it returns the file's path."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
