"""Preferences and prompts from wherever they are: local files, the embedded data, the hub."""

# ruff: noqa: F401 - what other rooms import from here
from rlaif_pl.data.sources.load import load_demonstrations, load_preferences, load_prompts
from rlaif_pl.data.sources.source import Data, DataSource, Format, Records, is_sensitive, named
