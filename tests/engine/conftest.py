"""Tiny models as the engine wants them, which do not repeat themselves when they write."""

import pytest
import torch
from torch import nn

from rlaif_pl.engine.decoder_layers import decoder_of, split


class EngineModel(nn.Module):
    """Trunk, upper layers and output embedding of a transformers model."""

    def __init__(self, model, trunk_layers=0, share_prefix=True):
        super().__init__()
        self.head = model.get_output_embeddings()
        self.cap = getattr(model.config, "final_logit_softcapping", None)
        self.trunk, self.top = split(decoder_of(model), trunk_layers)
        self.share_prefix = share_prefix
        self.end_ids = {1}

    def logits(self, hidden):
        logits = self.head(hidden)
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


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
