"""Who draws responses: this process, or inference servers that are given the policy's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.sampled_policy import SampledPolicy


class GenerationBackend:
    """Draws responses to prompts; by default in this process, from the policy itself.

    Attributes:
        is_remote: Whether texts are drawn elsewhere, with weights that are sent there.
        overlap: Whether training asks for the next step's texts while a step trains.
        importance_cap: Most that a token counts in training for its policy probability over its
            sampler's.
    """

    is_remote: bool = False
    overlap: bool = False
    importance_cap: float = math.inf  # the policy draws itself: there is nothing to weigh

    def prepare(self, policy: SampledPolicy, params: SamplingParams, *, for_training: bool) -> None:
        """Refuse, before any work, what could not be drawn.

        ``for_training`` says whether the log-probabilities that texts are drawn with will be needed.

        Raises:
            ValueError: Something has to be set otherwise; the message says what.
            OSError: No server can be reached.
        """

    def update(self, policy: SampledPolicy) -> None:
        """Let the texts that are asked from now on be drawn with the policy's present weights.

        Raises:
            ValueError: A server draws from other weights than the policy's.
            OSError: No server is left.
        """

    def share(self) -> Any:
        """Return, as plain values, what other processes need to ask for the weights that were sent."""

    def follow(self, state: Any) -> None:
        """Ask for the weights that another process sent; ``state`` is what its ``share`` gave."""

    def generate(
        self,
        policy: SampledPolicy,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,
        close: bool = False,
    ) -> Generated:
        """Draw ``params.n`` responses of a policy that ``update`` was called with to each prompt.

        Arguments as of ``CausalModel.sample``; only texts drawn in this process have trunk states.

        Raises:
            ValueError: A text could outgrow the servers' longest one, or a request is refused.
            OSError: No server is left.
        """
        return policy.sample(prompts, params, seeds, keep_trunk=keep_trunk, close=close)

    def close(self) -> None:
        """Take back what was sent, from servers and disk; after ``prepare`` it may be used again.

        Servers that do not answer are passed over: nothing is raised.
        """


class LocalGenerator(GenerationBackend):
    """Draws in this process, from the policy itself: no weights are sent, no text is off policy."""
