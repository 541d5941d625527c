"""Tokens in and out of a local model: every prefix computed once, whatever is asked of it.

Read ``batch``, ``attention``, ``decoder_layers``, ``runner``, then ``generate`` and ``score``.
"""

from rlaif_pl.engine.sampling import SamplingParams

__all__ = ["SamplingParams"]
