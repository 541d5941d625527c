"""Python functions by their path, as Python code gives them: rewards, optimizers. Without torch.

Of ``class_path`` jsonargparse (4.53) takes a function for one that makes the object: it would call a
reward without texts, an optimizer's function without parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import Namespace
from jsonargparse._util import NestedArg, import_object

REWARD = ("rlaif_pl.types", "Reward")
FUNCTION_REWARD = "rlaif_pl.rl.function_reward.FunctionReward"
WEIGHTED_REWARDS = "rlaif_pl.rl.WeightedRewards"


def by_path(value: Any, hint: Any) -> Any:
    """Return how a parser takes the function that a value names; other values as they are.

    Args:
        value: What stands for an option: a path, a mapping with ``class_path``, or anything else.
        hint: Type that the option has. Of a reward's function a reward is made, and one of a list.

    Raises:
        ValueError: A function that is wanted itself is given arguments.
    """
    is_reward = inspect.isclass(hint) and (hint.__module__, hint.__name__) == REWARD
    if not is_reward and get_origin(hint) is not Callable:
        return value
    if is_reward and isinstance(value, list):
        return Namespace(class_path=WEIGHTED_REWARDS, init_args=Namespace(rewards=value))
    path, arguments = value, None
    if isinstance(value, NestedArg) and value.key == "class_path":  # of a command line
        path = value.val
    if isinstance(value, Namespace | Mapping):
        path, arguments = value.get("class_path"), value.get("init_args")
    function = function_at(path)
    if function is None:
        return value
    if is_reward:
        made = Namespace(class_path=FUNCTION_REWARD, init_args=Namespace(function=path))
        return value if arguments or _makes_reward(function) else made
    if path is value or not _misses(function, arguments or {}):
        return value
    if arguments:
        raise ValueError(f"Expected '{path}' to be a subclass of {get_args(hint)[-1]}")
    return path


def function_at(path: Any) -> Callable[..., Any] | None:
    """Return the function at a path; None where there is none, or something else."""
    if not isinstance(path, str):
        return None
    try:
        found = import_object(path)
    except (ImportError, AttributeError, ValueError):
        return None  # the parser says what is wrong with it
    is_function = callable(found) and not isinstance(found, type) and not hasattr(found, "score")
    return found if is_function else None


def _makes_reward(function: Callable[..., Any]) -> bool:
    """Whether a function declares that it returns a reward, so that its path is that of a factory."""
    try:
        return hasattr(get_type_hints(function).get("return"), "score")
    except (NameError, TypeError):
        return False


def _misses(function: Callable[..., Any], arguments: Namespace | Mapping[str, Any]) -> bool:
    """Whether a function cannot be called with these arguments alone."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return any(name not in arguments for name in required)
