"""Responses drawn and scored, what they are worth, and the loss: the parts of A2C, and rewards."""

from rlaif_pl.rl.function_reward import WeightedRewards
from rlaif_pl.rl.generate import GenerationBackend, LocalGenerator
from rlaif_pl.rl.vllm.generator import VLLMGenerator

__all__ = ["GenerationBackend", "LocalGenerator", "VLLMGenerator", "WeightedRewards"]
