"""A causal model as generation backends see it: what changed, how it is written, what it says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.engine.noise import with_noise
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.sampling import SamplingParams, StopStrings
from rlaif_pl.models.adapter_export import save_adapter
from rlaif_pl.models.adapters import adapter_source, has_adapters, is_lora
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.export import exported_weights, save_policy

Changed = Literal["nothing", "adapter", "whole"]
CHECK_TEXT = (
    "The tap in the kitchen drips all night, and two new washers did not help. A neighbor says that "
    "the seat of the valve is worn, that it can be ground smooth with a tool for a few coins, and that "
    "the water must be turned off first. "
) * 6


class SampledPolicy:
    """A policy as a generation backend sees it, trained or read from files.

    ``send_whole``: send servers all weights of one that was read from files too: they were started with
    another. ``device`` is where this process computes: a trainer moves the policy there after it was
    set up, and divided weights are put together on the host. None: where its weights are.
    """

    def __init__(
        self, model: CausalModel, *, send_whole: bool = False, device: torch.device | None = None
    ) -> None:
        self.model, self.send_whole, self._device = model, send_whole, device
        self.name, self.is_tied, self.sample = model.base, model.is_tied, model.sample
        self.end_ids, self.vocab_size = model.stop_token_ids, model.info.vocab_size
        self._files = adapter_source(model.base)

    @property
    def changed(self) -> Changed:
        """What differs from the model on a server: adapters beside it, all weights, or nothing."""
        model = self.model
        if has_adapters(model.top):  # alone they are all that differs from a server
            return "adapter" if model.rests_on_base and self._files is None else "whole"
        is_trained = any(each.requires_grad for each in model.parameters())
        if self.send_whole or not model.rests_on_base or is_trained:
            return "whole"
        return "nothing" if self._files is None else "adapter"

    @property
    def rank(self) -> int:
        """Rank of its adapters; 0 where it has none, or they are in files."""
        return next((int(m.r["default"]) for m in self.model.top.modules() if is_lora(m)), 0)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.model.device if self._device is None else self._device

    @property
    def device_type(self) -> str:
        """Kind of device this process computes on: "cpu", "cuda", ..."""
        return self.device.type

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Have the weights where this process computes, for a while."""
        if self.model.device.type == self.device.type:
            yield
            return
        weights = [(parameter, parameter.data) for parameter in self.model.parameters()]
        held = [(m, dict(m._parameters), dict(m._buffers)) for m in self.model.modules()]
        try:
            self.model.to(self.device)
            yield
        finally:  # as they were: copying them back would take as long again
            for module, parameters, buffers in held:
                module._parameters.update(parameters)
                module._buffers.update(buffers)
            for parameter, data in weights:
                parameter.data = data

    def stop_checker(self, params: SamplingParams) -> StopStrings | None:
        """Return what finds stop strings; None where there are none."""
        return StopStrings(params.stop, self.model.decode) if params.stop else None

    def write(self, folder: Path) -> Path:
        """Write what changed: a PEFT folder, or a whole transformers folder."""
        if self.changed != "adapter":
            return save_policy(folder, self.model)
        if self._files is None:
            return save_adapter(folder, self.model, card=False)
        work = folder.with_name(f".{folder.name}")
        shutil.copytree(self._files.folder, work)
        return work.replace(folder)

    @torch.no_grad()
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights on the model's device, adapters folded in; see ``exported_weights``."""
        yield from exported_weights(self.model).items()

    def check_prompt(self, most: int) -> list[int]:
        """Return the first tokens of one fixed text, at most so many, at least 1."""
        ids = self.model.tokenizer(CHECK_TEXT, add_special_tokens=False).input_ids
        return [int(token) for token in ids[:most]]

    @torch.no_grad()
    def score(
        self, prompt: Sequence[int], response: Sequence[int], rounding: str | None = None
    ) -> list[float]:
        """Log-probability of each response token, in nats, at temperature 1.

        ``rounding`` is a type to compute in, as servers of that type round; None the policy's own.
        """
        model = self.model
        batch = assemble([prompt], [response], model.pad, model.device)
        if rounding is None:
            return list(map(float, model.logprobs(batch)[0].tolist()))
        dtype, bottom = getattr(torch, rounding), runners_of(model)[0].decoder
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            hidden = with_noise(lambda: model.hidden(batch), bottom)
        table = model.logits(hidden).to(dtype).float().log_softmax(-1)  # logits are rounded too
        return list(map(float, table.gather(1, batch.response_ids[0][:, None])[:, 0].tolist()))
