"""Preferences and prompts from wherever they are: local files, the embedded data, the hub."""

from rlaif_pl.data.sources.load import load_demonstrations, load_preferences, load_prompts
from rlaif_pl.data.sources.source import DataSource, Format

__all__ = ["DataSource", "Format", "load_demonstrations", "load_preferences", "load_prompts"]
