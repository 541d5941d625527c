"""The documentation builds as a site without a warning, and fetches nothing when it is read."""

import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed; the extra [docs] has it")
pytest.importorskip("material", reason="mkdocs-material is not installed; the extra [docs] has it")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed; the extra [docs] has it")

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?https?://""")


@pytest.mark.slow
def test_the_site_builds_and_stands_alone(tmp_path, caplog):
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    with caplog.at_level(logging.WARNING):
        build(config)
    assert not [each for each in caplog.records if each.name.startswith(("mkdocs", "griffe"))]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 25
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    assert not [page for page, text in texts.items() if FETCHED.search(text)]
    assert not [page for page, text in texts.items() if 'class="mermaid"' in text]  # from a CDN
    styles = [file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"url\(['\"]?https?://|@import", style)]
    # made from docstrings: a signature, an argument's text, what is raised
    training = texts[tmp_path / "reference" / "api" / "training.html"]
    assert "A2CModule" in training
    assert "Weight of the value loss." in training
