"""Reinforcement learning: responses drawn and scored, what they are worth, and the loss.

::

    generate, vllm/             who draws responses (this process, vLLM servers); those to a data set
    rollout                     those of one step, scored
    function_reward             a Python function as a reward, several with weights
    reward_columns              columns of the data for rewards that name them
    shaping, kl                 from a score a response to a reward a token
    objective, losses           targets without gradients, and the loss of one step
"""

from rlaif_pl.rl.function_reward import WeightedRewards
from rlaif_pl.rl.generate import GenerationBackend, LocalGenerator
from rlaif_pl.rl.vllm.generator import VLLMGenerator

__all__ = ["GenerationBackend", "LocalGenerator", "VLLMGenerator", "WeightedRewards"]
