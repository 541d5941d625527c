"""Tokens in and out of a local model: every prefix computed once, whatever is asked of it.

Read in this order::

    batch            segments of token ids in one packed row, and how they see one another
    attention/       packed attention over segments: CPU, CUDA, and the reference
    kv_cache         keys and values of what was read
    decoder_layers   what is known of architectures: names of their parts, layer types
    forward          a redirected decoder run once: packed, or a token a text
    noise, capabilities   which of this a decoder computes right, held against its own noise
    runner           DecoderRunner: layers behind three calls; a decoder cut into trunk and top
    response_batch, hidden_states   prompts with their responses, and a runner's states of them
    prefix_tree, tree_runner        texts of any depth by their shared beginnings (labelers)
    sampling, score  SamplingParams; tokens drawn, and log-probabilities of given ones
    generation_state, generate      prompts that were run, and the one loop that goes on from them
    allocator        what becomes of freed memory on the CPU
"""

from rlaif_pl.engine.sampling import SamplingParams

__all__ = ["SamplingParams"]
