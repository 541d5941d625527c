"""The optimizer that modules take where none is named: AdamW at a rate for what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

MARK = "rlaif_pl_is_adapter"  # attribute of parameters: optimizers are not told names


class FineTuningAdamW(AdamW):
    """AdamW with a learning rate for whole layers and one for LoRA adapters.

    One rate holds for all weights of a module: ``adapter_lr`` where adapters are among them, ``lr``
    otherwise. Adapters want about ten times the rate of whole layers, in SFT as in RL (Schulman et al.
    2025, "LoRA Without Regret"; TRL's guide to PEFT). torch's own default, 1e-3, ruins a language model
    that is trained whole. No weight decay, as in transformers' trainer.

    | default of | `lr` | `adapter_lr` | source of `lr` |
    |---|---|---|---|
    | `SFTModule` | 2e-5 | 2e-4 | TRL 1.16, `SFTConfig` |
    | `RewardModule` | 1e-5 | 1e-4 | arXiv 2309.00267, appendix; TRL 1.16's `RewardConfig` has 1e-4 |
    | `A2CModule` | 1e-6 | 1e-5 | TRL 1.16, `RLOOConfig` and `GRPOConfig` |
    | `DPOModule` | 1e-6 | 1e-5 | TRL 1.16, `DPOConfig` |

    Args:
        params: Parameters, or groups of them, as any optimizer of torch takes them.
        lr: Learning rate where whole layers are trained.
        adapter_lr: Learning rate where adapters are trained, heads beside them included.
        betas: Decay of the running means of gradient and squared gradient.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-5,
        adapter_lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        given = list(params)
        tensors = chain.from_iterable(
            [each] if isinstance(each, Tensor) else each["params"] for each in given
        )
        rate = adapter_lr if any(getattr(each, MARK, False) for each in tensors) else lr
        super().__init__(given, lr=rate, betas=betas, eps=eps, weight_decay=weight_decay)


def mark_adapters(named: Mapping[str, nn.Parameter]) -> None:
    """Let optimizers know which parameters belong to LoRA adapters.

    To be called right before an optimizer is made: FSDP2 puts other parameters in their places.
    """
    for name, parameter in named.items():
        setattr(parameter, MARK, ".lora_" in name)
