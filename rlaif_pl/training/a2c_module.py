"""Advantage actor-critic on a learned (or any other) reward, with a KL penalty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.engine.batch import send
from rlaif_pl.engine.sampling import SamplingParams, sample_seed
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.models.actor_critic import ActorCritic, ActorSource
from rlaif_pl.models.policy import Policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.rl.function_reward import AnyReward, as_reward, rewards_of
from rlaif_pl.rl.generate import GenerationBackend
from rlaif_pl.rl.kl import KLController
from rlaif_pl.rl.objective import Advantages, Objective, Update
from rlaif_pl.rl.reward_columns import check_columns, columns_of
from rlaif_pl.rl.rollout import Rollout, collect
from rlaif_pl.rl.shaping import RewardShaping, sequence_kl
from rlaif_pl.training.base import TrainableModule
from rlaif_pl.training.optimizers import ConstantWithWarmup, FineTuningAdamW
from rlaif_pl.training.rollouts import CloseRollouts, Rollouts, next_batch
from rlaif_pl.training.sharding import Division
from rlaif_pl.training.step_mean import mean_over_ranks, rank_share
from rlaif_pl.training.trainer_check import most_parts
from rlaif_pl.types import Batch, Prompt, SampledResponse


class A2CModule(TrainableModule):
    """One rollout and one gradient step a batch of prompts.

    The training pass is also the behavior policy's: no second one, no clipping, and no importance
    ratios unless servers draw.

    Args:
        actor: Policy, reference and value network. In Python also a ``Policy``, which makes an
            ``ActorCritic`` with adapters like its own and is left as it is.
        reward: Scores whole responses; a model of any tokenizer, since it is given text. In Python also
            a function that takes prompts and responses, and columns of the data that it names, and
            returns a number each, or a list of either (their sum; with weights: ``WeightedRewards``).
            What a ``LabelerReward`` costs is logged (``labeler_reward/*``).
        sampling: How ``n`` responses to each prompt are drawn, and policy and reference are scored. Its
            seed (default 0) keys the noise, beside step, prompt and sample, and initializes what is
            added to a given ``Policy``.
        shaping: KL coefficient, whether it adapts, where the KL enters, and penalties.
        advantages: Discount, trace decay, baseline, its scale, whitening; how losses are averaged.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the mean entropy a token, which is subtracted from the loss.
        value_lr_scale: The value network's learning rate as a multiple of the policy's. Its head starts
            at 0 and gets there by steps of that rate: at the policy's own it takes tens of thousands
            (OpenRLHF has 9, verl 10).
        optimizer: Builds the optimizer; the default rate is 1e-6, 1e-5 where adapters are trained.
        scheduler: Builds the learning-rate schedule, stepped every batch; the default is constant.
        micro_batch_tokens: Tokens that are trained on at a time, whole prompts with all their
            responses; the rollout is sampled whole. See ``TrainableModule`` and ``Update``.
        rollout: Who draws: this process (None), or servers that are sent each step's weights, such as
            ``rlaif_pl.rl.VLLMGenerator``.
    """

    task = "prompts"
    samples_while_training = True
    divided = Division(
        "actor", ("trunk_states", "reference_pass", "evaluate", "logprobs"), "actor.policy"
    )

    def __init__(
        self,
        actor: ActorSource,
        reward: AnyReward,
        sampling: SamplingParams = SamplingParams(n=4, temperature=0.9),  # noqa: B008 - frozen
        shaping: RewardShaping = RewardShaping(),  # noqa: B008 - frozen
        advantages: Advantages = Advantages(),  # noqa: B008 - frozen
        vf_coef: float = 0.5,
        ent_coef: float = 0.0,
        value_lr_scale: float = 10.0,
        optimizer: OptimizerCallable = lambda p: FineTuningAdamW(p, lr=1e-6, adapter_lr=1e-5),
        scheduler: LRSchedulerCallable = ConstantWithWarmup,
        micro_batch_tokens: int | None = None,
        rollout: GenerationBackend | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, micro_batch_tokens)
        self.rollouts = Rollouts(rollout)
        self.draws_here = not self.rollouts.generator.is_remote
        sampling = sampling.seeded(0)
        if isinstance(actor, Policy):
            seed = sampling.seed or 0
            actor = ActorCritic(actor, lora=actor.lora, template=actor.template, seed=seed)
        if not isinstance(actor, ActorCritic):
            raise TypeError(
                f"expected a Policy or an ActorCritic, got {type(actor).__name__}; make a policy with "
                "Policy.from_pretrained"
            )
        is_monte_carlo = advantages.baseline is not None and advantages.gae_lambda == 1
        if actor.value_network == "none" and not is_monte_carlo:
            raise ValueError(
                "expected advantages with a baseline and gae_lambda=1 with value_network=none, got "
                f"{advantages}; there are no values to bootstrap from"
            )
        if sampling.temperature == 0:
            greedy = "greedy responses have no probability to learn from"
            raise ValueError(f"expected sampling.temperature above 0, got 0: {greedy}")
        self.actor = actor
        self.reward = as_reward(reward)
        if isinstance(self.reward, nn.Module):
            self.reward.requires_grad_(False)
        for each in self.reward_models():
            each.adopt_trunk(actor.policy.trunk)  # one copy of the weights where they are equal
        self.sampling = sampling
        cap = self.rollouts.generator.importance_cap
        self.objective = Objective(
            shaping, sampling.n, advantages, vf_coef, ent_coef, sampling.max_new_tokens, cap
        )
        self.kl_control = KLController(shaping.kl_coef, shaping.adaptive_kl)
        self.value_lr_scale = value_lr_scale
        self.latest_samples: list[SampledResponse] = []
        self.is_given = actor.is_given or any(each.is_given for each in self.reward_models())

    @property
    def policy(self) -> Policy:
        """The policy that is trained."""
        return self.actor.policy

    def reward_models(self) -> list[RewardModel]:
        """The reward, or those of its parts, that are reward models."""
        return [each for each in rewards_of(self.reward).values() if isinstance(each, RewardModel)]

    @override
    def before_division(self) -> None:
        for reward in self.reward_models():
            if reward.model.trunk is self.actor.policy.trunk:  # it runs apart from the actor
                reward.model.trunk = copy.deepcopy(reward.model.trunk)

    def policy_to_send(self) -> Policy:
        """Return the policy that servers are sent; its weights are whole on rank 0."""
        self.gather_weights()
        is_divided = bool(self._shards) and not self.trainer.is_global_zero
        return self.policy if is_divided else self.whole(self.policy)

    @override
    def check_lengths(self, rows: Sequence[Prompt]) -> None:
        check_columns(self.reward, rows)
        drawn = self.sampling.max_new_tokens
        texts = ((row.text, None) for row in rows)
        self.policy.check_lengths(texts, drawn, "sampling.max_new_tokens")
        for reward in self.reward_models():
            texts = ((row.text, None) for row in rows)
            reward.model.check_lengths(texts, min(drawn + 1, reward.max_response_tokens))

    def rollout(self, batch: Batch[Prompt], *key: int | str) -> Rollout:
        """Sample and score responses; the noise depends on ``key``, prompt and sample only."""
        step = self.global_step
        samples = self.rollouts.take(step, batch) if key == (step,) else None
        if samples is None or self.rollouts.overlap:
            self.rollouts.update(self.policy_to_send, step)
        asks_ahead = self.rollouts.overlap and key == (step,)
        ahead = next_batch(self.trainer) if asks_ahead else None
        if ahead is not None:
            seeds = self._seeds(ahead, step + 1)
            self.rollouts.ask(step + 1, ahead, self.policy, self.sampling, seeds)
        return collect(
            self.actor,
            self.reward,
            batch.prompts,
            params=self.sampling,
            seeds=self._seeds(batch, *key),
            generator=self.rollouts.generator,
            samples=samples,
            columns=columns_of(batch.rows),
            most_tokens=None if "validation" in key else self.micro_batch_tokens,
        )

    def _seeds(self, batch: Batch[Prompt], *key: int | str) -> list[int]:
        places = product(batch.positions, range(self.sampling.n))
        return [sample_seed(self.sampling.seed or 0, *key, *place) for place in places]

    @override
    def check_inputs(self, trainer: Trainer) -> None:
        # A trainer moves the model after this; what is sent then comes from its device.
        self.rollouts.prepare(self.policy, self.sampling, trainer.strategy.root_device)
        drawn = self.sampling.max_new_tokens
        if isinstance(self.reward, RewardModel) and drawn >= self.reward.max_response_tokens:
            rank_zero_warn(
                f"the reward model reads {self.reward.max_response_tokens} tokens of a response, EOS "
                f"included, and sampling.max_new_tokens lets it have {drawn}: what is behind is "
                f"rewarded whatever it says; raise the reward's max_response_tokens to {drawn + 1}, or "
                "lower sampling.max_new_tokens"
            )

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [CloseRollouts(self.rollouts)]

    @override
    def teardown(self, stage: str) -> None:
        self.rollouts.close()

    @override
    def training_step(self, batch: Batch[Prompt], batch_idx: int) -> Tensor:
        rollout = self.rollout(batch, self.global_step)
        prompts = [prompt for prompt in batch.prompts for _ in range(self.sampling.n)]
        rows = zip(prompts, rollout.texts, rollout.scores.tolist(), strict=True)
        self.latest_samples = [SampledResponse(self.global_step, *row) for row in rows]
        for name, reward in rewards_of(self.reward).items():
            if isinstance(reward, LabelerReward):
                prefix = f"labeler_reward/{name}" if reward is not self.reward else "labeler_reward"
                self.log_dict(reward.to_metrics(prefix), batch_size=1)
        return self.update_loss(rollout, self.counted(rollout, batch))

    def update_loss(self, rollout: Rollout, is_counted: Tensor) -> Tensor:
        """Loss of one update on the response tokens that count ``(N, R)`` bool."""
        objective, most = self.objective.at(self.kl_control.kl_coef), self.micro_batch_tokens
        update = Update(self.actor, objective, rollout, is_counted, self.sampling, most)
        loss = self.backward_parts(update.losses(), update.count)
        parts = update.logged()
        share = rank_share(update.count)
        gap = update.sampler_gap()
        token_share = rank_share(is_counted.sum()) if gap else share
        for name, value in gap.items():
            fold = "max" if name.endswith("_max") else "mean"
            whole = value if fold == "max" else value * token_share
            self.log_dict({f"rollout/{name}": whole}, reduce_fx=fold, sync_dist=True, batch_size=1)
        if self.kl_control.rule is not None:
            parts["beta"] = torch.tensor(self.kl_control.kl_coef, dtype=torch.float32)
        # a rank with fillers alone has nothing to say
        parts = {name: torch.where(share > 0, value * share, 0.0) for name, value in parts.items()}
        self._log_all("train", parts, len(rollout.texts), bar=False)
        rows, kl = is_counted.any(1), update.kl
        self.log_update(rollout, kl, rows)
        self.kl_control.observe(kl, rows)
        if self._parts == 1:
            self._follow_kl()
        return loss

    def _follow_kl(self) -> None:
        sums = self.kl_control.take()
        if sums is not None:
            self.kl_control.update(mean_over_ranks(*sums).item())

    @override
    def finish_step(self) -> None:
        super().finish_step()
        self._follow_kl()

    @override
    def check_accumulation(self) -> None:
        super().check_accumulation()
        parts = most_parts(self.trainer)
        if self.rollouts.overlap:
            raise ValueError(
                f"expected trainer.accumulate_grad_batches of 1 with rollout.overlap, got {parts}: "
                "what comes next is asked by step; raise data.batch_size instead"
            )
        if self.objective.advantages.whiten:
            raise ValueError(
                f"expected trainer.accumulate_grad_batches of 1 with advantages.whiten, got {parts}: "
                "the mean and spread of all advantages of a step are not known before its last part is "
                f"sampled; set data.batch_size {parts} times as high instead, and "
                "model.init_args.micro_batch_tokens to what memory holds"
            )

    def log_update(self, rollout: Rollout, kl: Tensor, rows: Tensor) -> None:
        """Log reward, KL and lengths of a training batch, means over the rows of all ranks."""
        share = rank_share(rows.sum())
        values = {name: value * share for name, value in rollout.means(kl, rows).items()}
        self._log_all("train", values, len(rows))  # a size has no effect on what each step logs

    def _log_all(self, split: str, values: dict[str, Tensor], size: int, bar: bool = True) -> None:
        named = {f"a2c/{split}_{name}": value for name, value in values.items()}
        self.log_dict(named, prog_bar=bar, batch_size=size, sync_dist=True)

    def counted(self, rollout: Rollout, batch: Batch[Prompt]) -> Tensor:
        """Response tokens of rows that are not fillers. ``(N, R)`` bool."""
        filler = torch.tensor(batch.is_padding).repeat_interleave(self.sampling.n)
        return rollout.is_sampled & ~send(filler, rollout.scores.device)[:, None]

    @override
    def validation_step(self, batch: Batch[Prompt], batch_idx: int) -> None:
        rollout = self.rollout(batch, "validation")
        rows = self.counted(rollout, batch).any(1)
        logprobs = self.actor.logprobs(rollout.batch, rollout.below, self.sampling)
        kl = sequence_kl(logprobs, rollout.ref_logprobs, rollout.is_sampled)
        self._log_all("val", rollout.means(kl, rows), int(rows.sum()))

    @override
    def build_optimizer(self) -> Optimizer:
        named = self.trained().items()
        policy = [value for name, value in named if name.startswith("actor.policy.")]
        critic = [value for name, value in named if not name.startswith("actor.policy.")]
        groups = [{"params": group} for group in (policy, critic) if group]
        optimizer = self.optimizer(groups)  # type: ignore[arg-type]
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.value_lr_scale
        return optimizer

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint.update(self.kl_control.state_dict())
        checkpoint["rollouts"] = self.rollouts.state_dict()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.kl_control.load_state_dict(checkpoint)
        self.rollouts.load_state_dict(checkpoint.get("rollouts", {}))
