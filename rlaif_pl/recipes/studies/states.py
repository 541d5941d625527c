"""Hidden states of a frozen trunk on disk: many rewards are trained from one pass over the text.

A fit then runs, and differentiates, the upper layers only. A file's name holds what its states depend
on, so states of other weights or texts are never taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from rlaif_pl.data.disk import replaced
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.types import Preference

SHARD = 64  # pairs a file: what a killed run repeats at most
ROWS = 8  # pairs computed at once
PARTS = ("prefix", "first", "second")


class StateCache:
    """Trunk states of pairs, made where they are missing; ValueError without a trunk or pairs."""

    def __init__(
        self, reward: RewardModel, pairs: Sequence[Preference], folder: Path | str
    ) -> None:
        if reward.model.trunk is None:
            raise ValueError(
                "expected a reward with a frozen trunk whose states can be kept, got trunk_layers=0; "
                "set backbone.trunk_layers to the layers that are not trained"
            )
        if not pairs:
            raise ValueError("expected pairs to keep the states of, got none")
        self.reward, self.pairs, self.folder = reward, list(pairs), Path(folder)
        digest = hashlib.blake2b(digest_size=10)
        digest_weights(digest, reward.model.trunk)
        facts = [repr(reward.model.template), reward.max_response_tokens]
        for each in (facts, *([pair.prompt, pair.first, pair.second] for pair in pairs)):
            digest.update(json.dumps(each).encode())
        self.key = digest.hexdigest()  # of trunk, texts, template and length limit
        # files of the cache, made or not
        count = (len(self.pairs) + SHARD - 1) // SHARD
        self.shards = [self.folder / f"{self.key}-{n:04d}.safetensors" for n in range(count)]

    @property
    def bytes(self) -> int:
        """Size of the files on disk."""
        return sum(path.stat().st_size for path in self.shards if path.is_file())

    def fill(self) -> int:
        """Compute what is missing; returns how many pairs that were."""
        missing, made = [n for n, path in enumerate(self.shards) if not path.is_file()], 0
        for number in track(missing, description="trunk states", disable=not missing):
            rows = list(range(number * SHARD, min((number + 1) * SHARD, len(self.pairs))))
            tensors: dict[str, Tensor] = {}
            for row, parts in self._compute(rows):
                tensors |= {f"{row}/{name}": t for name, t in zip(PARTS, parts, strict=True)}
            with replaced(self.shards[number]) as file:
                file.write(save(tensors))
            made += len(rows)
        return made

    def batch(self, rows: Sequence[int]) -> tuple[ResponseBatch, Tensor]:
        """Encode pairs and read their states: ``G`` prompts with two responses each, and ``(T, D)``."""
        batch, prefixes, responses = self._encoded(rows), [], []
        for row in rows:
            with safe_open(self.shards[row // SHARD], framework="pt") as file:
                prefix, *own = (file.get_tensor(f"{row}/{part}") for part in PARTS)
            prefixes.append(prefix)
            responses += own
        return batch, torch.cat([*prefixes, *responses]).to(batch.device)

    def _encoded(self, rows: Sequence[int]) -> ResponseBatch:
        pairs = [self.pairs[row] for row in rows]
        return self.reward.encode([p.prompt for p in pairs], [[p.first, p.second] for p in pairs])

    def _compute(self, rows: list[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield a pair's place and states, of prompt ``(P, D)`` and responses ``(1 + R, D)``."""
        order = sorted(rows, key=lambda row: len(self.pairs[row].prompt))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            batch = self._encoded(chosen)
            states = self.reward.model.trunk_states(batch)
            assert states is not None  # the constructor saw a trunk
            pieces = states.split([*batch.prefix_lengths, *batch.continuation_lengths])
            prefixes, own = pieces[: len(chosen)], pieces[len(chosen) :]
            for n, row in enumerate(chosen):
                parts = (prefixes[n], *own[2 * n : 2 * n + 2])
                yield row, [part.cpu().clone() for part in parts]


def digest_weights(digest: hashlib.blake2b, module: torch.nn.Module) -> None:
    """Add a module's weights, by their names, to a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
