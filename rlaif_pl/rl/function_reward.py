"""A plain Python function as a reward, and no reward at all."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlaif_pl.types import Reward

# Returns numbers or a tensor; named so, the command line would refuse functions that do not declare it.
RewardFunction = Callable[[Sequence[str], Sequence[str]], Any]
PLAIN = (str, int, float, bool, tuple, list, dict, type(None))  # settings that print as they are
if TYPE_CHECKING:
    AnyReward = Reward | RewardFunction
else:  # what a config is checked against: the command line makes a `FunctionReward` of a function
    AnyReward = Reward


class FunctionReward:
    """Rewards responses by a function of prompts and responses.

    Args:
        function: Given ``N`` prompts and their responses, returns ``N`` finite numbers.
    """

    def __init__(self, function: RewardFunction) -> None:
        self.function = function

    @property
    def name(self) -> str:
        """What messages call the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def fingerprint(self) -> str:
        """What tells it from other functions: where it is, and its source where there is one."""
        return f"function {settings_of(self.function)}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return rewards ``(N,)`` in float32 on the CPU; see ``types.Reward``.

        Raises:
            ValueError: The function returned another number of rewards, or one that is not finite.
        """
        found = self.function(list(prompts), list(responses))
        values = as_scores(found, len(responses), self.name).detach().cpu()
        if not bool(values.isfinite().all()):
            place = int((~values.isfinite()).nonzero()[0])
            raise ValueError(
                f"expected finite rewards from {self.name}, got {values[place].item()} for the "
                f"response {responses[place][:60]!r}; return a number for every response"
            )
        return values


def settings_of(value: object) -> str:
    """What tells a function or an object from others: where it is, its source, what it was given."""
    if isinstance(value, functools.partial):
        given = [repr(each) for each in value.args], sorted(map(repr, value.keywords.items()))
        return f"partial {settings_of(value.func)} {given}"
    kind = value if inspect.isroutine(value) else type(value)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = ""
    digest = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    attributes = {} if kind is value else getattr(value, "__dict__", {})
    plain = {name: item for name, item in attributes.items() if isinstance(item, PLAIN)}
    return f"{kind.__module__}.{kind.__qualname__} {digest} {sorted(plain.items())}"


def as_scores(found: Sequence[float] | Tensor, count: int, name: str) -> Tensor:
    """Return what a reward gave as float32 ``(N,)``.

    Raises:
        ValueError: It is another number of scores.
    """
    values = torch.as_tensor(found, dtype=torch.float32)
    if values.shape != (count,):
        raise ValueError(
            f"expected {name} to return {count} rewards, one a response, got shape "
            f"{tuple(values.shape)}; return a list of as many numbers"
        )
    return values


class NoReward:
    """Rewards nothing: a policy then learns from the rules of ``RewardShaping`` and the KL alone."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return zeros ``(N,)`` in float32."""
        del prompts
        return torch.zeros(len(responses))


def as_reward(reward: AnyReward) -> Reward:
    """Return a reward as it is, or make one of a function.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(reward, Reward):
        return reward
    if callable(reward):
        return FunctionReward(reward)
    raise TypeError(
        f"expected a reward with a method score, or a function of prompts and responses, got "
        f"{type(reward).__name__}"
    )
