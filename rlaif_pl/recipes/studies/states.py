"""Hidden states of a frozen trunk on disk: many rewards are trained from one pass over the text.

The lower layers of a reward model do not change in training. Their output for a prompt and its two
responses is computed once and kept; a fit then runs (and differentiates) the upper layers only. The
file's name holds what the states depend on, so states of other weights or texts are never taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.types import Preference

SHARD = 64  # pairs a file: what a killed run repeats at most
ROWS = 8  # pairs computed at once
PARTS = ("prefix", "first", "second")


class StateCache:
    """Trunk states of pairs, made where they are missing.

    Raises:
        ValueError: The model has no trunk, or there is no pair.
    """

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
        self.reward = reward
        self.pairs = list(pairs)
        self.folder = Path(folder)
        self.key = self._key()
        self.made = 0  # pairs whose states this object computed

    @property
    def shards(self) -> list[Path]:
        """Files of the cache, made or not."""
        count = (len(self.pairs) + SHARD - 1) // SHARD
        return [self.folder / f"{self.key}-{n:04d}.safetensors" for n in range(count)]

    @property
    def bytes(self) -> int:
        """Size of the files on disk."""
        return sum(path.stat().st_size for path in self.shards if path.is_file())

    def fill(self) -> int:
        """Compute what is missing; returns how many pairs that were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [n for n, path in enumerate(self.shards) if not path.is_file()]
        for number in track(missing, description="trunk states", disable=not missing):
            rows = range(number * SHARD, min((number + 1) * SHARD, len(self.pairs)))
            tensors: dict[str, Tensor] = {}
            for row, parts in self._compute(list(rows)):
                tensors |= {f"{row}/{name}": t for name, t in zip(PARTS, parts, strict=True)}
            path = self.shards[number]
            work = path.with_suffix(".part")
            save_file(tensors, work)
            work.replace(path)  # a kill leaves whole files only
            self.made += len(rows)
        return self.made

    def batch(self, rows: Sequence[int]) -> tuple[ResponseBatch, Tensor]:
        """Encode pairs and read their states: ``G`` prompts with two responses each, and ``(T, D)``."""
        pairs = [self.pairs[row] for row in rows]
        batch = self.reward.encode([p.prompt for p in pairs], [[p.first, p.second] for p in pairs])
        read = [self._read(row) for row in rows]
        prefixes = [states[0] for states in read]
        states = torch.cat([*prefixes, *(part for parts in read for part in parts[1:])])
        return batch, states.to(batch.device)

    def _read(self, row: int) -> list[Tensor]:
        with safe_open(self.shards[row // SHARD], framework="pt") as file:
            return [file.get_tensor(f"{row}/{part}") for part in PARTS]

    def _compute(self, rows: list[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Run the trunk over pairs of like length; yields each pair's place and its states.

        They are those of the prompt ``(P, D)`` and of both responses ``(1 + R, D)``.
        """
        order = sorted(rows, key=lambda row: len(self.pairs[row].prompt))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            pairs = [self.pairs[row] for row in chosen]
            texts = [[pair.first, pair.second] for pair in pairs]
            batch = self.reward.encode([pair.prompt for pair in pairs], texts)
            states = self.reward.model.trunk_states(batch)
            assert states is not None  # the constructor saw a trunk
            pieces = states.split([*batch.prefix_lengths, *batch.continuation_lengths])
            prefixes, own = pieces[: len(chosen)], pieces[len(chosen) :]
            for n, row in enumerate(chosen):
                parts = (prefixes[n], *own[2 * n : 2 * n + 2])
                yield row, [part.cpu().clone() for part in parts]

    def _key(self) -> str:
        """Digest of trunk, texts, template and length limit."""
        digest = hashlib.blake2b(digest_size=10)
        trunk = self.reward.model.trunk
        assert trunk is not None
        for name, tensor in sorted(trunk.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        facts = [repr(self.reward.model.template), self.reward.max_response_tokens]
        digest.update(json.dumps(facts).encode())
        for pair in self.pairs:
            digest.update(json.dumps([pair.prompt, pair.first, pair.second]).encode())
        return digest.hexdigest()
