"""How many inputs a reader gets (500 in all, 20,000 and more in a soak), and what may come of one."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings

from rlaif_pl.errors import explained

SOAK = 44  # times as many


def inputs(count: int) -> Callable:
    """Return a decorator that sets the inputs of a test, none of which may depend on the last."""
    times = SOAK if os.environ.get("RLAIF_PL_SOAK") == "1" else 1
    return settings(
        max_examples=count * times,
        deadline=None,
        derandomize=times == 1,
        database=None,
        # a failure is shown as it was found: to make it smaller takes minutes
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def value_or_sentence(
    function: Callable[..., object], *arguments: object, names: tuple[str, ...]
) -> object:
    """Return a value, or a foreseen error whose message has one of the names in it."""
    try:
        return function(*arguments)
    except (ValueError, OSError) as error:
        said = explained(error)
        assert any(name in said for name in names), f"{said!r} names none of {names}"
        assert "Traceback" not in said
        return error
