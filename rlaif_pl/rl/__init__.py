"""Reinforcement learning: responses drawn and scored, what they are worth, and the loss.

::

    generation_backend, vllm/   who draws responses: this process, or vLLM servers
    generate, rollout           responses to a data set; those of one step, scored
    function_reward             a Python function as a reward, several with weights
    reward_columns              columns of the data for rewards that name them
    shaping, kl                 from a score a response to a reward a token
    objective, losses, update   targets without gradients, and the loss of one step
"""

from rlaif_pl.rl.function_reward import WeightedRewards
from rlaif_pl.rl.generation_backend import GenerationBackend, LocalGenerator
from rlaif_pl.rl.vllm.generator import VLLMGenerator

__all__ = ["GenerationBackend", "LocalGenerator", "VLLMGenerator", "WeightedRewards"]
