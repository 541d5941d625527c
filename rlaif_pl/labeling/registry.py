"""Labelers by short name, as configs name them."""

from __future__ import annotations

import inspect

from rlaif_pl.labeling.strategies import ensemble, likelihood, listwise, pairwise, rubric, scoring
from rlaif_pl.types import Labeler

LABELERS: dict[str, type] = {
    labeler.strategy: labeler
    for labeler in (
        likelihood.LikelihoodLabeler,
        pairwise.PairwiseLabeler,
        pairwise.FreeFormLabeler,
        scoring.ScoreLabeler,
        listwise.ListwiseLabeler,
        rubric.RubricLabeler,
        pairwise.ConstitutionLabeler,
        ensemble.EnsembleLabeler,
    )
}


def build_labeler(spec: str | Labeler, **options: object) -> Labeler:
    """Return a labeler by name, or the given one.

    ``TypeError``: it is none. ``ValueError``: an unknown name, a wrong option.
    """
    if not isinstance(spec, str):
        if isinstance(spec, type) or not hasattr(spec, "label"):
            raise TypeError(
                f"expected a labeler's name, or an object with fingerprint and label(pairs), got "
                f"{getattr(spec, '__name__', type(spec).__name__)}; see docs/labeling.md for those "
                "that there are"
            )
        if options:
            raise ValueError(
                f"expected options only with a labeler's name, got {sorted(options)} with "
                f"{type(spec).__name__}; set them where it is built"
            )
        return spec
    if spec not in LABELERS:
        raise ValueError(
            f"expected a labeler named one of {sorted(LABELERS)}, or the path of a class with "
            f"fingerprint and label(pairs), got {spec!r}"
        )
    parameters = inspect.signature(LABELERS[spec]).parameters
    if unknown := sorted(set(options) - set(parameters)):
        raise ValueError(f"labeler {spec!r} has no option {unknown}; it has {sorted(parameters)}")
    required = {name for name, each in parameters.items() if each.default is each.empty}
    if missing := sorted(required - set(options)):
        raise ValueError(
            f"labeler {spec!r} needs {missing}; name its class with class_path and init_args"
        )
    labeler: Labeler = LABELERS[spec](**options)
    return labeler
