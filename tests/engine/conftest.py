"""Tiny models as the engine wants them, which do not repeat themselves when they write."""

import pytest
import torch
from torch import nn
from unpacked import unpack

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import split
from rlaif_pl.engine.score import CappedHead, head_logits


class EngineModel(nn.Module):
    """Trunk, upper layers and output embedding of a transformers model."""

    def __init__(self, model, trunk_layers=0, packs=True):
        super().__init__()
        head = model.get_output_embeddings()
        cap = getattr(model.config, "final_logit_softcapping", None)
        self.unembedding = head if cap is None else CappedHead(head, cap)
        self.trunk, self.top = split(decoder_of(model), trunk_layers)
        self.end_ids = {1}
        unpack(self, packs)

    def logits(self, hidden):
        return head_logits(self.unembedding, hidden)


@pytest.fixture
def plain_of(make_model):
    """Return a loader of models by transformers alone, whose output embedding is random and large."""

    def load(name="llama", window=None):
        model = make_model(name, window)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            head = model.get_output_embeddings()
            head.weight = nn.Parameter(torch.randn_like(head.weight), requires_grad=False)
        return model

    return load


@pytest.fixture
def model_of(plain_of):
    """Return a loader of the same models as trunk and top."""
    return lambda name="llama", window=None, **options: EngineModel(
        plain_of(name, window), **options
    )
