"""Tokens in and out of a local model: every prefix computed once, whatever is asked of it.

::

    batch, response_batch   segments of token ids, and how they see one another
    prefix_tree             texts by their shared beginnings
    attention/              packed attention over segments: CPU, CUDA, and the reference
    runner, decoder_layers  a transformers decoder run over a batch, layer by layer
    kv_cache                keys and values of what was read
    forward, hidden_states  last states with and without gradients
    score, tree_runner      log-probabilities of given tokens
    sampling, generate      SamplingParams, and tokens drawn by them
    generation_backend, vllm/   who draws responses: this process, or vLLM servers
    allocator               what becomes of freed memory on the CPU
    capabilities, probe_ways, noise   which of this a model can do, held against its own noise
"""

from rlaif_pl.engine.generation_backend import GenerationBackend, LocalGenerator
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.vllm.generator import VLLMGenerator

__all__ = ["GenerationBackend", "LocalGenerator", "SamplingParams", "VLLMGenerator"]
