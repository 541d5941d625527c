"""A tiny reward model and pairs whose people and AI disagree in known places."""

from dataclasses import replace

import pytest

from rlaif_pl.models import BackboneOptions, RewardModel
from rlaif_pl.models.adapters import Lora
from rlaif_pl.recipes.studies.states import StateCache
from rlaif_pl.types import Preference

POSTS = 12


@pytest.fixture(scope="module")
def judged() -> list[Preference]:
    """Two pairs a post, of prompts of different lengths; people like a 'good' one."""
    rows = []
    for n in range(POSTS):
        post = f"post {n} " + "and more of it " * (n % 4)
        rows.append(Preference(post, f"good {n}", "bad", f"p{n}", p_first=1.0, source="human"))
        rows.append(Preference(post, "worse", f"good, {n}", f"p{n}", p_first=0.0, source="human"))
    return rows


@pytest.fixture(scope="module")
def machine(judged) -> list[Preference]:
    """The same pairs by an AI: one without a label, one the other way round, responses swapped."""
    rows = [
        replace(row, first=row.second, second=row.first, p_first=0.1 if row.p_first else 0.9)
        for row in judged[:-1]
    ]
    return [replace(rows[0], p_first=0.8), *rows[1:]]


@pytest.fixture
def make_reward(tiny_model_folder):
    """Return a maker of tiny reward models with a trunk of 2 of 4 layers."""

    def make(**options):
        backbone = BackboneOptions(str(tiny_model_folder), trunk_layers=options.pop("trunk", 2))
        return RewardModel(backbone, lora=Lora(r=4, alpha=8), max_response_tokens=16, **options)

    return make


@pytest.fixture
def filled(make_reward, judged, tmp_path) -> StateCache:
    """Return the filled cache of the judged pairs."""
    cache = StateCache(make_reward(pooling="mean"), judged, tmp_path / "states")
    cache.fill()
    return cache
