"""Ask a generation backend for the responses of each step; the next step's while this one trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import distributed as dist
from typing_extensions import override

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl.generate import GenerationBackend, LocalGenerator
from rlaif_pl.training.step_mean import has_ranks
from rlaif_pl.types import Batch, Prompt

DRAWN = ("tokens", "finished", "failed", "logprobs")  # of what was asked ahead, in checkpoints


class Rollouts:
    """Who draws a run's responses (None: this process), and what was asked a step ahead."""

    def __init__(self, generator: GenerationBackend | None) -> None:
        self.generator: GenerationBackend = generator or LocalGenerator()
        self.overlap = self.generator.overlap
        self._device: torch.device | None = None  # where the trainer computes
        self._served: int | None = None  # step whose weights the backend has
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: Future[Generated] | None = None
        self._key: tuple[int, list[int]] | None = None

    def prepare(
        self, policy: CausalModel, params: SamplingParams, device: torch.device | None = None
    ) -> None:
        """Refuse, before the first step, what could not be drawn (on the trainer's device by then)."""
        self._device = device
        self.generator.prepare(SampledPolicy(policy, device=device), params, for_training=True)

    def update(self, policy: Callable[[], CausalModel], step: int) -> None:
        """Let the backend draw with a step's weights, gathered by ``policy()`` on every process."""
        if self._served == step:
            return
        if self._ahead is not None:
            self._ahead.result()  # its adapters must stay until it is drawn
        self._serve(SampledPolicy(policy(), device=self._device))
        self._served = step

    def _serve(self, policy: SampledPolicy) -> None:
        """Send the weights, from rank 0 alone: every process has the same, and asks for them."""
        if not (self.generator.is_remote and has_ranks()):
            self.generator.update(policy)
            return
        dist.barrier()  # until then a process may wait for texts of the weights before
        failure: Exception | None = None
        if dist.get_rank() == 0:
            try:
                self.generator.update(policy)
            except (OSError, RuntimeError, ValueError) as error:  # NCCL's are of the second kind
                failure = error
        told = [self.generator.share() if failure is None else None, str(failure)]
        dist.broadcast_object_list(told, src=0)
        state, said = told
        if failure is not None:
            raise failure
        if state is None:
            raise ConnectionError(f"rank 0 could not send the weights of this step: {said}")
        if dist.get_rank() > 0:
            self.generator.follow(state)

    def ask(
        self,
        step: int,
        batch: Batch[Prompt],
        policy: CausalModel,
        params: SamplingParams,
        seeds: Sequence[int],
    ) -> None:
        """Ask for the responses of a later step, to be drawn with the weights that the backend has."""
        self._pool = self._pool or ThreadPoolExecutor(1)
        rows = policy.encode_prompts(batch.prompts)
        self._key = (step, list(batch.positions))
        draw = self.generator.generate
        self._ahead = self._pool.submit(draw, SampledPolicy(policy), rows, params, seeds)

    def take(self, step: int, batch: Batch[Prompt]) -> Generated | None:
        """Return what was asked ahead for a step; None where nothing was, or for other prompts."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        samples = ahead.result()
        if self._key == (step, list(batch.positions)):
            return samples
        rank_zero_warn(f"step {step} has other prompts than were asked ahead; asked anew")
        return None

    def close(self) -> None:
        """Take back what servers were sent, and drop what was asked ahead; an ``update`` sends anew."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._ahead = self._served = None
        self.generator.close()

    def state_dict(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Return what was asked and not used yet, once it is there; of several processes, a list."""
        own: dict[str, Any] = {}
        if self._ahead is not None and self._key is not None:
            found = self._ahead.result()
            own = dict(zip(("step", "rows"), self._key, strict=True))
            own |= {name: getattr(found, name) for name in DRAWN}
        if not (self.overlap and has_ranks()):
            return own
        states: list[dict[str, Any]] = [{}] * dist.get_world_size()
        dist.all_gather_object(states, own)
        return states

    def load_state_dict(self, state: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Take up what a checkpoint holds, so that nothing is asked or trained on twice."""
        if isinstance(state, list):
            is_alike = has_ranks() and len(state) == dist.get_world_size()
            state = state[dist.get_rank()] if is_alike else {}  # else the prompts are asked anew
        if not state:
            return
        self._key, self._ahead = (state["step"], state["rows"]), Future()
        self._ahead.set_result(Generated(**{name: state[name] for name in DRAWN}))


class CloseRollouts(Callback):
    """Closes a module's rollouts where a run ends by an error; at other ends the module does."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.rollouts.close()


def next_batch(trainer: Trainer) -> Batch[Prompt] | None:
    """Return the batch that training will be given next; None where the loader does not know."""
    upcoming = getattr(trainer.train_dataloader, "upcoming", None)
    if upcoming is None or trainer.global_step + 1 >= trainer.max_steps > 0:
        return None
    found: Batch[Prompt] | None = upcoming()
    return found
