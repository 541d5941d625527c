"""Rewards made of others: of a plain Python function, of several with weights, of nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlaif_pl.errors import paired
from rlaif_pl.models.model_info import weights_digest
from rlaif_pl.rl.reward_columns import Asked, asked_by, asks_of, name_of, score_with
from rlaif_pl.types import Reward

# Returns numbers or a tensor; named so, the command line would refuse functions that do not declare it.
RewardFunction = Callable[..., Any]
TEXTS = ("prompts", "completions")  # as TRL names them in a call
# Attributes that are settings, as functions are.
PLAIN = (
    *(str, int, float, bool, tuple, list, dict, set, frozenset, type(None)),
    *(functools.partial, Tensor, np.ndarray, nn.Module),
)
if TYPE_CHECKING:
    AnyReward = Reward | RewardFunction | Sequence[Reward | RewardFunction]
else:  # what a config is checked against: the command line makes these of functions and lists
    AnyReward = Reward


class FunctionReward:
    """Rewards responses by a function of prompts and responses.

    Args:
        function: Given ``N`` prompts and their responses, returns ``N`` finite numbers. Further
            arguments are given the columns that they name (see ``reward_columns``). One that has an
            argument ``completions`` is called by names, as TRL does, and may leave ``prompts`` out.
    """

    def __init__(self, function: RewardFunction) -> None:
        self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.is_called_by_name = "completions" in _arguments(function)
        self.asks: Asked = asked_by(function, TEXTS if self.is_called_by_name else ())

    @property
    def fingerprint(self) -> str:
        """What tells it from others: where it is, its source, what it was given (``settings_of``)."""
        return f"function {settings_of(self.function)}"

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> Tensor:
        """Return rewards ``(N,)`` in float32 on the CPU; see ``types.Reward``.

        ValueError: the function returned another number of rewards, or one that is not finite; or a
        column is missing that it requires.
        """
        paired(prompts, responses)
        given = self.asks.taken(columns, self.name)
        if self.is_called_by_name:
            if "prompts" in _arguments(self.function) or self.asks.takes_all:
                given["prompts"] = list(prompts)
            found = self.function(completions=list(responses), **given)
        else:
            found = self.function(list(prompts), list(responses), **given)
        return as_scores(found, len(responses), self.name).detach().cpu()


def _arguments(function: RewardFunction) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()


def settings_of(value: object, above: tuple[int, ...] = ()) -> str:
    """What tells a function or an object from others: where it is, its source, what it was given.

    Given are a partial's arguments, a function's defaults and what it closes over, a method's object,
    and an object's attributes; of those numbers, texts, functions, networks, arrays and collections of
    such: others (clients, loggers) change from run to run. ``above`` are ids of what holds the value.
    """
    above = (*above, id(value))
    if isinstance(value, functools.partial):
        given: dict[str, object] = {str(n): each for n, each in enumerate(value.args)}
        given |= value.keywords
        return f"partial {settings_of(value.func, above)} {_told(given, above)}"
    is_itself = inspect.isroutine(value) or inspect.isclass(value)
    kind: Any = value if is_itself else type(value)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = ""
    digest = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    given = _given_to(value) if is_itself else _attributes(value)
    where = f"{getattr(kind, '__module__', None)}.{kind.__qualname__}"
    return f"{where} {digest} {_told(given, above) if given else []}"


def _given_to(function: object) -> dict[str, object]:
    """Defaults of a function, what it closes over, and the object that a method is of."""
    plain: Any = getattr(function, "__func__", function)
    names = getattr(getattr(plain, "__code__", None), "co_freevars", ())
    told = ("__defaults__", "__kwdefaults__", "__wrapped__")
    given = {name: getattr(plain, name, None) for name in told}
    given["__self__"] = getattr(function, "__self__", None)
    for name, cell in zip(names, getattr(plain, "__closure__", None) or (), strict=True):
        with contextlib.suppress(ValueError):  # not filled yet
            given[name] = cell.cell_contents
    return {name: item for name, item in given.items() if item is not None}


def _attributes(value: object) -> dict[str, object]:
    """Attributes of an object that can be told; of a network the public ones, its state and layers."""
    state = object.__getstate__(value)
    parts = state if isinstance(state, tuple) else (state,)  # of a class with slots: two
    found: dict[str, Any] = {name: part[name] for part in parts if part for name in part}
    if isinstance(value, nn.Module):
        found = {k: item for k, item in found.items() if k[0] != "_" and k != "training"}
        found["weights"] = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        found["layers"] = re.sub(" at 0x[0-9a-f]+", "", str(value))  # those without weights, too
    return {k: v for k, v in found.items() if isinstance(v, PLAIN) or inspect.isroutine(v)}


def _told(value: object, above: tuple[int, ...]) -> str:
    """Return a setting as text without addresses, which are others in every run."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if id(value) in above:
        return "itself"
    inside = (*above, id(value))
    if isinstance(value, Tensor):
        return weights_digest([("", value)], {})
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:  # whose bytes are addresses
            return f"{value.dtype} {value.shape} {_told(value.tolist(), inside)}"
        digest = hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, dict):
        return str(sorted((_told(key, inside), _told(value[key], inside)) for key in value))
    if isinstance(value, list | tuple):
        return str([_told(each, inside) for each in value])
    if isinstance(value, set | frozenset):
        return str(sorted(_told(each, inside) for each in value))
    if inspect.ismodule(value):
        return value.__name__
    if inspect.isroutine(value) or hasattr(value, "__dict__"):
        return settings_of(value, above)
    text = repr(value)
    return text if " at 0x" not in text else type(value).__qualname__


def as_scores(found: Any, count: int, name: str) -> Tensor:
    """Return what a reward gave as float32 ``(N,)``, on its device.

    ValueError: it is no list of numbers, of another number, or one of them is not finite: a policy
    would learn from any number in its place.
    """
    try:
        values = torch.as_tensor(found, dtype=torch.float32)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        hint = "return a number for every response, 0 where it says nothing"
        if inspect.iscoroutine(found):
            found.close()  # else Python warns that nobody awaited it
            hint = "nobody awaits an async function: run it within a plain one (asyncio.run)"
        odd = [n for n, each in enumerate(found, 1) if each is None] if _is_list(found) else []
        got = f"None for response {odd[0]} of {len(found)}" if odd else _kind_of(found)
        raise ValueError(
            f"expected {name} to return {count} numbers, one a response, got {got}; {hint}"
        ) from error
    if values.shape != (count,):
        raise ValueError(
            f"expected {name} to return {count} rewards, one a response, got shape "
            f"{tuple(values.shape)}; return a list of as many numbers"
        )
    if not bool(values.isfinite().all()):
        place = int((~values.isfinite()).nonzero()[0])
        raise ValueError(
            f"expected finite rewards from {name}, got {values[place].item()} for "
            f"response {place + 1} of {count}; return a number for every response"
        )
    return values


def _is_list(found: object) -> bool:
    return isinstance(found, list | tuple)


def _kind_of(found: Any) -> str:
    """Name the kind of what a reward returned, of a list with the kinds in it."""
    kind = type(found).__name__
    kinds = sorted({type(each).__name__ for each in found}) if _is_list(found) else []
    return f"a {kind} of {', '.join(kinds)}" if kinds else kind


class WeightedRewards(nn.Module):
    """Several rewards as one: the sum of weight times reward.

    Args:
        rewards: Rewards, or functions as ``FunctionReward`` takes them; at least one.
        weights: Of each, finite; None weighs each 1. A negative one makes a penalty.
        names: What each is logged under; None takes the function's or class's own.

    Raises:
        ValueError: The lists differ in length, a weight is not finite, or two names are the same.
    """

    def __init__(
        self,
        rewards: list[AnyReward],
        weights: list[float] | None = None,
        names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.rewards = [as_reward(each) for each in rewards]
        self.networks = nn.ModuleList(r for r in self.rewards if isinstance(r, nn.Module))
        self.weights = [1.0] * len(rewards) if weights is None else weights
        self.names = [name_of(each) for each in self.rewards] if names is None else names
        if not len(self.rewards) == len(self.weights) == len(self.names) > 0:
            raise ValueError(
                f"expected a weight and a name for each of at least one reward, got {len(rewards)} "
                f"rewards, {len(self.weights)} weights and {len(self.names)} names"
            )
        if not all(map(math.isfinite, self.weights)) or len({*self.names}) < len(self.names):
            raise ValueError(
                f"expected finite weights and a name of its own for each reward, got {self.weights} "
                f"and {', '.join(self.names)}; give others as weights and names"
            )

    @property
    def asks(self) -> Asked:
        """Columns that any of them asks for."""
        found = [asks_of(each) for each in self.rewards]
        required = frozenset[str]().union(*(each.required for each in found))
        optional = frozenset[str]().union(*(each.optional for each in found))
        return Asked(required, optional, any(each.takes_all for each in found))

    def total(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of what each reward gave, all ``(N,)``."""
        weighted = zip(self.weights, scores, strict=True)
        return torch.stack([weight * each for weight, each in weighted]).sum(0)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> Tensor:
        """Return rewards ``(N,)`` in float32 on the CPU; see ``types.Reward``."""
        paired(prompts, responses)
        found = [score_with(each, prompts, responses, columns) for each in self.rewards]
        names = zip(found, self.names, strict=True)
        return self.total([as_scores(x, len(responses), name).detach().cpu() for x, name in names])


def rewards_of(reward: Any) -> dict[str, Any]:
    """Return the rewards that one is the sum of, by name; of any other, itself."""
    if isinstance(reward, WeightedRewards):
        return dict(zip(reward.names, reward.rewards, strict=True))
    return {name_of(reward): reward}


class NoReward:
    """Rewards nothing: a policy then learns from the rules of ``RewardShaping`` and the KL alone."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return zeros ``(N,)`` in float32."""
        paired(prompts, responses)
        return torch.zeros(len(responses), dtype=torch.float32)


def as_reward(reward: AnyReward) -> Reward:
    """Return a reward as it is, or make one of a function, or of a list of either (their sum).

    ``TypeError``: it is something else, such as a class or a model of transformers.
    """
    expected = "expected a reward with a method score, or a function of prompts and responses, got"
    if isinstance(reward, type):  # it has a method score, but nobody to call it on
        name = reward.__name__
        raise TypeError(f"{expected} the class {name}; make an object of it: {name}(...)")
    if isinstance(reward, str | os.PathLike | PreTrainedModel):  # whose `score` is a layer
        do = "of a model or its folder make RewardModel.from_pretrained(..., frozen=True)"
        raise TypeError(f"{expected} {type(reward).__name__}; {do}")
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, list | tuple):
        return WeightedRewards(list(reward))
    if callable(reward):
        return FunctionReward(reward)
    raise TypeError(f"{expected} {type(reward).__name__}")
