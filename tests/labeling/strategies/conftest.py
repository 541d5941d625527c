"""Log-probabilities the plain way, which likelihoods are held against."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def plain_logprobs():
    """Return a maker: of a model's folder, the mean log-probability of a target after a context."""

    def make(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

        def mean_logprob(context, target):
            before = tokenizer(context).input_ids
            after = tokenizer(target, add_special_tokens=False).input_ids
            with torch.no_grad():
                table = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
            rows = torch.arange(len(before) - 1, len(before) + len(after) - 1)
            return table[rows, torch.tensor(after)].mean().item()

        return mean_logprob

    return make
