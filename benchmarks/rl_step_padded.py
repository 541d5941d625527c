"""The RL step that one would write with transformers and PEFT alone: a peer of ``rl_step.py``.

Prompts are padded on the left, ``generate`` samples, and two more passes over prompts and responses,
each text a row, give the log-probabilities of the reference and of the policy. The advantage is the
leave-one-out score with the KL in it, as in TRL's RLOOTrainer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from rl_step_task import ALPHA, BETA, RANK, RATE, RESPONSE, TEMPERATURE, vowels
from sides import Line
from torch import Tensor, nn

from rlaif_pl.text import Template

CLIP = 1.0  # norm of gradients, as on all sides


class Padded:
    """Model, frozen reference, tokenizer and optimizer.

    Args:
        given: What all sides share.
        line: To the driver; says where to compute.
    """

    def __init__(self, given: dict[str, Any], line: Line) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.place, self.given = line.place, given
        self.tokenizer = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
        is_lora = given["train"] == "lora"
        dtype = self.place.dtype if is_lora else torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(given["model"], dtype=dtype)
        self.reference: nn.Module | None = None  # None: the model without its adapters
        if is_lora:
            model = get_peft_model(
                model,
                LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", bias="none"),
            )
        else:
            reference = copy.deepcopy(model).requires_grad_(False)
            self.reference = reference.to(self.place.device).eval()
        self.model: Any = model.to(self.place.device).eval()  # no dropout
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=0.0)

    def logprobs(self, model: Any, ids: Tensor, is_real: Tensor, kept: int) -> Tensor:
        """Log-probabilities of the last tokens of each row. ``(N, kept)`` float32."""
        logits = model(input_ids=ids, attention_mask=is_real, logits_to_keep=kept + 1).logits
        scaled = logits[:, :-1].float() / TEMPERATURE
        return scaled.log_softmax(-1).gather(2, ids[:, -kept:, None])[..., 0]

    def reference_logprobs(self, ids: Tensor, is_real: Tensor, kept: int) -> Tensor:
        """The same by the frozen reference."""
        off = self.model.disable_adapter() if self.reference is None else contextlib.nullcontext()
        with torch.no_grad(), off:
            return self.logprobs(self.reference or self.model, ids, is_real, kept)

    def step(self, posts: Sequence[str]) -> None:
        """Sample, score and update."""
        count, kept = self.given["num_generations"], self.given["new_tokens"]
        texts = [Template().render(post) for post in posts]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True).to(self.place.device)
        with self.place.autocast():
            with torch.no_grad():
                ids = self.model.generate(
                    **batch,
                    do_sample=True,
                    temperature=TEMPERATURE,
                    top_k=0,
                    max_new_tokens=kept,
                    num_return_sequences=count,
                )
            is_real = batch["attention_mask"].repeat_interleave(count, 0)
            is_real = torch.cat([is_real, torch.ones_like(ids[:, -kept:])], 1)
            before = self.reference_logprobs(ids, is_real, kept)
            logprobs = self.logprobs(self.model, ids, is_real, kept)
        written = self.tokenizer.batch_decode(ids[:, -kept:], skip_special_tokens=True)
        scores = torch.tensor([vowels(text) for text in written], device=self.place.device)
        scores = (scores - BETA * (logprobs.detach() - before).sum(1)).view(-1, count)
        others = (scores.sum(1, keepdim=True) - scores) / max(count - 1, 1)
        advantages = (scores - others).view(-1, 1)
        (-(advantages * logprobs).sum(1).mean()).backward()
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


def run_padded(given: dict[str, Any], line: Line) -> None:
    """Take steps when told to."""
    line.imported()
    padded = Padded(given, line)
    prompt = Template().render(given["posts"][0])
    ids = padded.tokenizer(f"{prompt} {RESPONSE}", return_tensors="pt").input_ids
    kept = ids.shape[1] - len(padded.tokenizer(prompt).input_ids)
    ids = ids.to(line.place.device)
    with torch.no_grad(), line.place.autocast():
        line.ready(padded.logprobs(padded.model, ids, torch.ones_like(ids), kept)[0].tolist())
    for start in range(0, len(given["posts"]), given["prompts"]):
        line.begin()
        padded.step(given["posts"][start : start + given["prompts"]])
        line.end(length=given["new_tokens"])
