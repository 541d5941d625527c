"""Preferences and prompts from wherever they are: local files, the embedded data, the hub."""

from rlaif_pl.data.sources.load import load_demonstrations as load_demonstrations
from rlaif_pl.data.sources.load import load_preferences as load_preferences
from rlaif_pl.data.sources.load import load_prompts as load_prompts
from rlaif_pl.data.sources.source import Data as Data
from rlaif_pl.data.sources.source import DataSource as DataSource
from rlaif_pl.data.sources.source import Format as Format
from rlaif_pl.data.sources.source import Records as Records
from rlaif_pl.data.sources.source import is_sensitive as is_sensitive
from rlaif_pl.data.sources.source import named as named
