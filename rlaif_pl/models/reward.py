"""The reward model: a decoder with a scalar head, read at EOS, shifted so references average 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from rlaif_pl import ops
from rlaif_pl.engine.response_batch import ResponseBatch, hidden_states
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.errors import one_of, paired
from rlaif_pl.models.adapters import Lora, adapter_source
from rlaif_pl.models.backbone import BackboneOptions, Precision
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.device import computing_on, widened
from rlaif_pl.models.export import save_reward
from rlaif_pl.models.policy import Policy, for_role, same_trunk, start_of, taken_over
from rlaif_pl.models.reward_folder import (
    LoadedReward,
    Pooling,
    RewardSource,
    is_reward_folder,
    load_reward_folder,
    loaded_reward,
)
from rlaif_pl.models.scalar_head import ScalarHead
from rlaif_pl.models.suited import CLASSIFIER, handed_over
from rlaif_pl.text import Template
from rlaif_pl.types import Preference

SCORE_ROWS = 32  # texts scored at once; on CUDA for every 16 GiB of memory
MAX_RESPONSE_TOKENS = 128  # where neither a user nor a folder says


class RewardModel(nn.Module):
    """Scalar reward of a response to a prompt.

    A pair is one prompt with two continuations, so the prompt is computed once. The reward is read
    at EOS, which every encoded response ends in. Head weights start at N(0, 1/(d+1)) (Stiennon et
    al. 2020, arXiv 2009.01325, section 3.4 and appendix); dropout is off.

    Args:
        backbone: Causal LM to start from, or a reward folder written by ``save_pretrained``. In Python
            also a ``Policy``: a copy of it as it is now, on the same trunk (see ``from_pretrained``).
        lora: Adapters on the layers above the trunk; None trains those layers whole.
        template: How prompt and response are written; None takes what the backbone was trained with
            (its folder says so, a ``Policy`` has one of its own), or the default.
        max_response_tokens: Longer responses lose their tail but keep EOS (EOS included), at least 2;
            None takes what a reward folder was trained with, or 128.
        seed: Seeds head and adapters.
        frozen: Load for scoring only: nothing is trained, no adapters are made; only a reward
            folder has something to score with.
        pooling: What the head reads: the state at ``eos``, or the ``mean`` over the response's tokens,
            which a few hundred pairs suffice for. A reward folder says itself how it is read.

    Attributes:
        shift: What is subtracted from every score. ``()`` float32, a buffer

    Raises:
        ValueError: A language model is given with ``frozen``, the backbone suits no reward, or
            nothing of a response would be read.
    """

    shift: Tensor

    def __init__(
        self,
        backbone: RewardSource = BackboneOptions(),  # noqa: B008 - frozen
        *,
        lora: Lora | None = None,
        template: Template | None = None,
        max_response_tokens: int | None = None,
        seed: int = 0,
        frozen: bool = False,
        pooling: Pooling = "eos",
    ) -> None:
        super().__init__()
        if max_response_tokens is not None and max_response_tokens < 2:
            raise ValueError(
                "expected max_response_tokens of at least 2, a token and EOS, got "
                f"{max_response_tokens}; no response would be read"
            )
        one_of(Pooling, pooling=pooling)
        shift = 0.0
        self.is_given = not isinstance(backbone, BackboneOptions)  # no config can name it
        if isinstance(backbone, BackboneOptions):
            backbone.check_exists()
            if is_reward_folder(backbone.name, backbone.revision):
                backbone = load_reward_folder(backbone, template, max_response_tokens)
        loaded: CausalModel
        if isinstance(backbone, LoadedReward):
            loaded, weight, shift, pooling, max_response_tokens = backbone
        else:
            if frozen:
                if isinstance(backbone, BackboneOptions):
                    adapter_source(backbone.name)  # which refuses those of a reward model
                named = backbone.name if isinstance(backbone, BackboneOptions) else backbone.base
                raise ValueError(
                    f"expected a reward folder with frozen=true, got {named}, whose "
                    "config.json names no sequence classifier (or is not there): a reward head on it "
                    "would stay random and its scores mean nothing; fit a reward model on it first "
                    "and name the folder that the fit exports"
                )
            loaded = start_of(backbone, template)
            generator = torch.Generator().manual_seed(seed)
            weight = torch.randn(1, loaded.width, generator=generator) / math.sqrt(loaded.width + 1)
        self.model = loaded if frozen else for_role(loaded, lora, seed, writes=False)
        self.head = ScalarHead(weight.shape[1], bias=False)
        self.head.weight.data.copy_(weight)
        self.head.requires_grad_(not frozen)
        self.pooling: Pooling = pooling
        self.max_response_tokens = max_response_tokens or MAX_RESPONSE_TOKENS
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PreTrainedModel | Policy,
        tokenizer: PreTrainedTokenizerBase | None = None,
        trunk_layers: int = 0,
        lora: Lora | None = None,
        device: str = "auto",
        *,
        dtype: Precision | None = None,
        template: Template | None = None,
        max_response_tokens: int | None = None,
        seed: int = 0,
        frozen: bool = False,
        pooling: Pooling = "eos",
    ) -> Self:
        """Make a reward model of a model by name or in memory.

        ``model`` is what a new head is put on: a name or a loaded causal LM as
        ``Policy.from_pretrained`` takes them, or a policy (a copy of it as it is now, on the same trunk
        and so without ``trunk_layers``). Or it is a reward model: a folder written by
        ``save_pretrained``, or a loaded sequence classifier with one label. ``tokenizer``,
        ``trunk_layers``, ``device`` and ``dtype`` are those of ``Policy.from_pretrained``, the other
        arguments those of the class.

        Raises:
            OSError: There is no such model.
            TypeError: ``model`` is none of these.
            ValueError: The model suits no reward, or arguments contradict each other.
        """
        with computing_on(device) as place:
            made = cls(
                _source(model, tokenizer, trunk_layers, dtype, template, max_response_tokens),
                lora=lora,
                template=template,
                max_response_tokens=max_response_tokens,
                seed=seed,
                frozen=frozen,
                pooling=pooling,
            )
        return made.to(place)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.shift
        super()._apply(fn, recurse)
        self.shift = exact.to(self.shift.device)  # moved, and not cast: 16 bits would round it
        return self

    def encode(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> ResponseBatch:
        """Encode ``G`` prompts with ``K`` responses each."""
        return self.model.encode(prompts, responses, self.max_response_tokens)

    def tells_apart(self, pairs: Sequence[Preference]) -> list[bool]:
        """Whether what is read of a pair's two responses differs; see ``Encoding.tells_apart``."""
        texts = [(pair.first, pair.second) for pair in pairs]
        return self.model.encoding.tells_apart(texts, self.max_response_tokens)

    def rewards(self, batch: ResponseBatch, below: Tensor | None = None) -> Tensor:
        """Reward of each continuation, which ends in EOS. ``(N,)`` float32, differentiable.

        ``below`` are the trunk states of the batch, where they are known.
        """
        rewards: Tensor = self.head(self.features(batch, below))
        return rewards - self.shift

    def features(self, batch: ResponseBatch, below: Tensor | None = None) -> Tensor:
        """What the head reads of each continuation. ``(N, D)`` float32."""
        model = self.model
        below = model.trunk_states(batch) if below is None else below
        is_mean = self.pooling == "mean"
        places = batch.places([1 if is_mean else n - 1 for n in batch.continuation_lengths])
        read = widened(hidden_states(model.top, batch, below, places))
        return batch.spread(read).sum(1) / batch.lengths[:, None].clamp(min=1) if is_mean else read

    def forward(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Tensor:
        """Rewards of ``K`` responses to each of ``G`` prompts. ``(G, K)``."""
        return self.rewards(self.encode(prompts, responses)).view(len(prompts), -1)

    @torch.no_grad()
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Rewards ``(N,)`` on the CPU, in batches of texts of like length; see ``types.Reward``."""
        paired(prompts, responses)
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]) + len(responses[n]))
        result = torch.empty(len(prompts), dtype=torch.float32)
        most = SCORE_ROWS * max(1, ops.device_memory(self.model.device) >> 34)
        for start in range(0, len(order), most):
            rows = order[start : start + most]
            chunk = self([prompts[n] for n in rows], [[responses[n]] for n in rows])
            result[rows] = chunk.squeeze(1).float().cpu()
        return result

    def adopt_trunk(self, trunk: DecoderRunner | None) -> bool:
        """Drop the own trunk for an equal one; True if from now on its states can be passed in."""
        if not same_trunk(self.model.trunk, trunk):
            return False
        self.model.trunk = trunk
        return True

    def reads_states_of(self, policy: CausalModel) -> bool:
        """Whether a policy's trunk states and tokens mean the same to this model as its own."""
        ours = self.model
        if ours.trunk is None or ours.trunk is not policy.trunk or ours.eos != policy.eos:
            return False
        same_chat = ours.tokenizer.chat_template == policy.tokenizer.chat_template
        return ours.template == policy.template and (same_chat or not ours.template.chat)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a transformers sequence classifier that knows its shift, template and length limit."""
        return save_reward(
            folder, self.model, self.head, float(self.shift), self.pooling, self.max_response_tokens
        )


def _source(
    model: str | Path | PreTrainedModel | Policy,
    tokenizer: PreTrainedTokenizerBase | None,
    trunk_layers: int,
    dtype: Precision | None,
    template: Template | None,
    max_response_tokens: int | None,
) -> RewardSource:
    """Return what the constructor takes for what ``from_pretrained`` was given."""
    if isinstance(model, Policy):
        own = 0 if model.trunk is None else model.trunk.num_layers
        if trunk_layers not in (0, own):
            raise ValueError(
                f"expected trunk_layers to be the policy's own {own}, got {trunk_layers}; give it to "
                "Policy.from_pretrained, or leave it out here"
            )
        return model
    given = handed_over(model, tokenizer)
    name = str(model) if given is None else given.name
    options = BackboneOptions(name, trunk_layers=trunk_layers, dtype=dtype or "float32")
    if given is None:
        return options
    if type(model).__name__.endswith(CLASSIFIER):
        return loaded_reward(given, options, dtype, template, max_response_tokens)
    return taken_over(given, options, dtype, template)
