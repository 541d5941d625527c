"""``study pairs|rewards|curve|sizes|cost``: the steps of the experiments under configs/studies."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from rlaif_pl.data.metric_files import update_metrics, write_metrics
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.results import StudyResults
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.recipes.studies import labelers, reward_studies, sources
from rlaif_pl.recipes.studies.fitting import Fitter, Method, Recipe
from rlaif_pl.recipes.studies.states import StateCache
from rlaif_pl.statistics import Estimator


@dataclass(frozen=True)
class Fitting:
    """What a study fits, how, and where that is kept.

    Attributes:
        reward: Model to fit; needs trunk layers.
        states: Folder of trunk states, features and finished fits; several studies may share it.
        recipe: How a reward is fitted.
    """

    reward: RewardModel
    states: str
    recipe: Recipe = Recipe()


@dataclass(frozen=True)
class FitSeeds:
    """How often each method of fitting is repeated.

    Attributes:
        head: Seeds (assignments to folds) of the logistic head; 0 leaves it out.
        top: Seeds of training the upper layers; 0 leaves it out.
    """

    head: int = 5
    top: int = 1

    def __post_init__(self) -> None:
        if self.head + self.top < 1:
            raise ValueError(
                "expected seeds.head or seeds.top above 0, got neither; nothing is fitted"
            )


def pairs(
    data: DataSource | str,
    out: str,
    votes: dict[str, list[int]] | None = None,
    max_words: int | None = None,
    limit: int | None = None,
) -> int:
    """Write the judged pairs of a study to OUT/pairs.jsonl, and subsets of the votes beside them.

    A name that begins with ``data/`` is also looked for in the folder that the environment variable
    RLAIF_PL_DATA names.

    Args:
        data: Pairs judged by people.
        out: Folder for the files and metrics.json.
        votes: Confidences by name of a subset (OpenAI's comparisons only); each makes OUT/NAME.jsonl.
        max_words: Keep only pairs whose prompt has at most so many words.
        limit: Keep the first so many pairs.
    """
    metrics = sources.write_study(sources.located(data), Path(out), votes or {}, max_words, limit)
    write_metrics(Path(out) / "metrics.json", metrics)
    return 0


@on_device
def rewards(
    human: DataSource | str,
    ai: DataSource | str,
    fitting: Fitting,
    out: str,
    votes: dict[str, str] | None = None,
    arms: list[str] | None = None,
    seeds: FitSeeds = FitSeeds(),  # noqa: B008 - frozen
    folds: int = 3,
    ai_weight: float = 1.0,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Compare reward models trained on AI labels, on people's and on both, by people's verdicts.

    The frozen trunk is run once over all pairs and its states are kept in STATES; each fit then runs
    the upper layers only. Finished fits are kept too, so a killed study goes on where it was.

    Args:
        human: Pairs judged by people.
        ai: The same pairs labeled by an AI.
        fitting: What is fitted, how, and where that is kept.
        out: Folder for results.md, rows.csv, reward_sources.png and metrics.json.
        votes: Files of the same pairs with some of the votes only, by name (``study pairs``).
        arms: Some of human, ai and hybrid; all by default.
        seeds: How often each method is fitted.
        folds: Folds by post.
        ai_weight: Weight of the AI's labels beside people's in hybrid.
        draws: Bootstrap resamples.
        seed: First seed.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    data, fitter = read_study(human, ai, votes, fitting, device)
    counts: dict[Method, int] = {"head": seeds.head, "top": seeds.top}
    ranges = {method: range(seed, seed + count) for method, count in counts.items()}
    results = reward_studies.compare_sources(
        fitter, data, arms or list(sources.ARMS), ranges, folds, ai_weight, Estimator(draws)
    )
    finish(results, out, started)
    return 0


@on_device
def curve(
    human: DataSource | str,
    ai: DataSource | str,
    fitting: Fitting,
    out: str,
    arms: list[str] | None = None,
    sizes: list[int] | None = None,
    subsets: int = 10,
    folds: int = 3,
    method: Method = "head",
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure accuracy on people's verdicts against the number of pairs a reward is trained on.

    Args:
        human: Pairs judged by people.
        ai: The same pairs labeled by an AI.
        fitting: What is fitted, how, and where that is kept, as of ``study rewards``.
        out: Folder for results.md, rows.csv, reward_curve.png and metrics.json.
        arms: Some of human, ai and hybrid; human and ai by default.
        sizes: Pairs trained on; by default 25, 50, 100, 200, 400. Larger than there are: all.
        subsets: Draws of each size.
        folds: Folds by post.
        method: ``head`` (a logistic head on frozen states) or ``top`` (adapters trained as well).
        draws: Bootstrap resamples.
        seed: First seed.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    data, fitter = read_study(human, ai, None, fitting, device)
    compared, seeds = arms or ["human", "ai"], range(seed, seed + subsets)
    sizes = sizes or [25, 50, 100, 200, 400]
    results = reward_studies.draw_curve(
        fitter, data, compared, sizes, seeds, folds, method, Estimator(draws)
    )
    finish(results, out, started)
    return 0


def sizes(rows: str, out: str) -> int:
    """Plot agreement with people by labeler, from a table of ``evaluate alignment``.

    Args:
        rows: Its rows.json.
        out: Folder for results.md, rows.csv, labeler_size.png and metrics.json.
    """
    finish(labelers.size_results(labelers.read_rows(rows)), out)
    return 0


def cost(rows: str, prices: dict[str, Price], out: str) -> int:
    """Compare what a label costs by model and by person, from a table of ``evaluate alignment``.

    Args:
        rows: Its rows.json, with measured tokens and times.
        prices: US dollars per million tokens by name of an endpoint.
        out: Folder for results.md, rows.csv, label_cost.png and metrics.json.
    """
    finish(labelers.cost_results(labelers.read_rows(rows), prices), out)
    return 0


def read_study(
    human: DataSource | str,
    ai: DataSource | str,
    votes: dict[str, str] | None,
    fitting: Fitting,
    device: str,
) -> tuple[sources.TwiceLabeled, Fitter]:
    """Read both files of labels and the subsets of votes, fill the cache of trunk states and say so."""
    data = sources.label_twice(
        load_preferences(human).rows,
        load_preferences(ai).rows,
        {name: load_preferences(path).rows for name, path in (votes or {}).items()},
    )
    reward, states = put(fitting.reward, resolve_device(device)), fitting.states
    cache = StateCache(reward, data.pairs, states)
    made = cache.fill()
    Console(stderr=True).print(
        f"trunk states of {len(data.pairs)} pairs in {states}: {made} new, "
        f"{cache.bytes / 2**20:.0f} MiB; recipe {asdict(fitting.recipe)}",
        highlight=False,
    )
    return data, Fitter(reward, cache, fitting.recipe, states)


def finish(results: StudyResults, out: str, started: float | None = None) -> None:
    """Print and write results, with the time they took."""
    results.page.render(Console())
    results.write(out)
    if started is not None:
        seconds = {f"{results.name}/seconds": time.monotonic() - started}
        update_metrics(Path(out) / "metrics.json", seconds)
