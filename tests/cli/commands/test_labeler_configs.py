"""Configs of labelers and of who answers them: each parses, is built, and goes with the others."""

import pytest
from jsonargparse import ArgumentParser

from rlaif_pl.cli.commands.label import label
from rlaif_pl.config_paths import config_paths
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.labeling import EndpointBackend, EnsembleLabeler, LocalBackend
from rlaif_pl.labeling.usage.projection import estimate_cost

FOLDER = config_paths() / "labelers"
STRATEGIES = sorted(FOLDER.glob("*.yaml"))
SINGLE = [file for file in STRATEGIES if file.stem != "ensemble"]  # whose members have their own
BACKENDS = sorted((FOLDER / "backends").glob("*.yaml"))
NAMES = {
    "constitution": "constitution",
    "ensemble": "ensemble",
    "free_form": "free_form",
    "likelihood": "likelihood",
    "listwise": "listwise",
    "pairwise": "pairwise",
    "pairwise_cot": "pairwise",
    "rubric": "rubric",
    "score": "score",
    "thinking": "pairwise",
}


@pytest.fixture(scope="module")
def built():
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(label, as_group=False)

    def build(*files):
        words = [f"--config={file}" for file in files]
        return parser.instantiate(parser.parse_args(words))

    return build


def test_every_strategy_and_kind_of_server_has_a_config():
    assert [file.stem for file in STRATEGIES] == sorted(NAMES)
    assert [file.stem for file in BACKENDS] == ["llama_cpp", "local", "openai", "sglang", "vllm"]


@pytest.mark.parametrize("file", STRATEGIES, ids=lambda file: file.stem)
def test_a_strategy_is_built_for_data_that_is_there(built, file):
    given = built(file)
    assert given.labeler.strategy == NAMES[file.stem]
    pairs = load_preferences(given.pairs).rows
    assert 10 <= len(pairs) <= 40
    projection = estimate_cost(given.labeler, pairs)  # writes every prompt out and asks nobody
    assert projection.calls >= len(pairs)
    assert given.out == f"runs/labelers/{file.stem}"
    assert given.gold is None  # whoever names pairs of their own pays for no others


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda file: file.stem)
@pytest.mark.parametrize("file", SINGLE, ids=lambda file: file.stem)
def test_another_model_answers_where_its_config_comes_after(built, file, backend):
    alone, given = built(file).labeler, built(file, backend).labeler
    kind = LocalBackend if backend.stem == "local" else EndpointBackend
    assert isinstance(given.backend, kind)
    assert given.prompt_version == alone.prompt_version  # nothing else is replaced
    if kind is EndpointBackend:
        assert (given.backend.price is not None) is (backend.stem == "openai")


def test_an_ensemble_has_its_members(built):
    labeler = built(FOLDER / "ensemble.yaml").labeler
    assert isinstance(labeler, EnsembleLabeler)
    assert [member.strategy for member in labeler.labelers] == ["likelihood", "pairwise"]
    assert labeler.weights == pytest.approx([2 / 3, 1 / 3])
