"""Fit rewards to labels of some pairs and read their margins on others, from kept trunk states."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.data.metric_files import write_json
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.recipes.studies.folds import Index
from rlaif_pl.recipes.studies.states import StateCache
from rlaif_pl.training.probe import fit_probe
from rlaif_pl.training.schedules import LinearDecay

Array = NDArray[np.float64]
Method = Literal["head", "top"]
WINDOW = 8  # batches whose pairs are sorted by length together, to pad less


@dataclass(frozen=True)
class Recipe:
    """How a reward is fitted.

    Attributes:
        penalty: L2 penalty of the logistic fit that gives the head (see ``training.probe``).
        epochs: Passes over the labels after it, where the top is trained.
        batch_size: Pairs a step.
        lr: Peak learning rate of AdamW; it falls to 0 linearly.
        warmup_steps: Steps of rising rate before.
        clip: Greatest norm of the gradient.
    """

    penalty: float = 0.1
    epochs: int = 1
    batch_size: int = 8
    lr: float = 2e-4
    warmup_steps: int = 2
    clip: float = 1.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.penalty < 0 or self.lr <= 0:
            raise ValueError(
                f"expected epochs and batch_size of at least 1, penalty >= 0 and lr > 0, got {self}"
            )


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels to train on."""

    rows: Index  # pair of each label. `(M,)`
    target: Array  # probability that the first is better. `(M,)`
    weight: Array  # importance, at least 0. `(M,)`

    def of(self, chosen: Index) -> Labels:
        """Return the labels of some pairs."""
        kept = np.isin(self.rows, chosen)
        return Labels(self.rows[kept], self.target[kept], self.weight[kept])


def merged(*parts: Labels) -> Labels:
    """Put labels of several sources together, one row a pair.

    ``a CE(p) + b CE(q) = (a + b) CE((a p + b q) / (a + b))`` plus what no reward changes, so one row
    with the mean label trains as both would, at half the cost.
    """
    rows = np.concatenate([part.rows for part in parts])
    target = np.concatenate([part.target for part in parts])
    weight = np.concatenate([part.weight for part in parts])
    pairs, place = np.unique(rows, return_inverse=True)
    total = np.bincount(place, weight).astype(np.float64)
    return Labels(pairs, np.bincount(place, weight * target) / total, total)


class Fitter:
    """Fits the head, or head and top, of one reward model, each time from the weights it has now."""

    def __init__(
        self, reward: RewardModel, cache: StateCache, recipe: Recipe, folder: Path | str
    ) -> None:
        self.reward = reward
        self.cache = cache
        self.recipe = recipe
        self.folder = Path(folder)
        self.start = {n: p.detach().clone() for n, p in self._trained()}
        self.key = self._key()
        self.differences = self._features()

    def margins(self, labels: Labels, test: Index, method: Method, seed: int) -> Array:
        """Fit on labels and return reward of the first minus of the second for other pairs.

        Args:
            labels: What to train on, at least one.
            test: Pairs to judge; none of their posts may be among the labels' pairs.
            method: ``head`` fits the head by logistic regression on the frozen model's states;
                ``top`` then trains adapters and head from there.
            seed: Order of the pairs in training; the head alone has no randomness.

        Returns:
            Margins in nats, all finite (else ValueError). ``(len(test),)``
        """
        if not len(labels.rows):
            raise ValueError("expected labels to train on, got none; see the labeler's failures")
        target = torch.tensor(labels.target, dtype=torch.float32)
        weight = torch.tensor(labels.weight, dtype=torch.float32)
        inputs = self.differences[torch.from_numpy(labels.rows)]
        head = fit_probe(inputs, target, weight, self.recipe.penalty)
        if method == "head":
            result = self.differences[torch.from_numpy(test)] @ head
        else:
            result = self._kept_top(labels, test, head, seed)
        if not torch.isfinite(result).all():
            advice = "lower recipe.lr" if method == "top" else "raise recipe.penalty"
            raise ValueError(
                f"expected finite margins after fitting {len(target)} labels, got NaN or infinity; "
                f"{advice}"
            )
        margins: Array = result.double().numpy()
        return margins

    def _kept_top(self, labels: Labels, test: Index, head: Tensor, seed: int) -> Tensor:
        facts = [self.key, asdict(self.recipe), seed, labels.rows.tolist(), labels.target.tolist()]
        text = json.dumps([*facts, labels.weight.tolist(), test.tolist()])
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        path = self.folder / "fits" / f"{name}.json"
        if path.is_file():
            return torch.tensor(json.loads(path.read_text(encoding="utf-8")))
        self._train(labels, head, seed)
        result = self._judge(test)
        if torch.isfinite(result).all():  # the caller refuses any other
            write_json(path, result.tolist())
        return result

    def _train(self, labels: Labels, head: Tensor, seed: int) -> None:
        for name, parameter in self._trained():
            parameter.data.copy_(self.start[name])
        self.reward.head.weight.data.copy_(head[None])
        recipe, parameters = self.recipe, [p for _, p in self._trained()]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0)
        batches = list(self._batches(labels.rows, seed))
        warmup = min(recipe.warmup_steps, len(batches) - 1)
        schedule = LinearDecay(optimizer, warmup_steps=warmup, total_steps=len(batches))
        for chosen in track(batches, description=f"fitting {len(labels.rows)} labels"):
            batch, below = self.cache.batch(labels.rows[chosen].tolist())
            first, second = self.reward.rewards(batch, below).view(-1, 2).unbind(1)
            target = torch.tensor(labels.target[chosen], dtype=torch.float32, device=first.device)
            weight = torch.tensor(labels.weight[chosen], dtype=torch.float32, device=first.device)
            loss = ops.pairwise_ce(first, second, target, weight).sum() / weight.sum().clamp(1e-12)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            schedule.step()

    @torch.no_grad()
    def _judge(self, test: Index) -> Tensor:
        """Margins of pairs by the model as it is now. ``(len(test),)``."""
        result = torch.empty(len(self.cache.pairs))
        for rows in self._by_length(test, self.recipe.batch_size):
            batch, below = self.cache.batch(rows.tolist())
            first, second = self.reward.rewards(batch, below).view(-1, 2).unbind(1)
            result[torch.from_numpy(rows)] = (first - second).float().cpu()
        return result[torch.from_numpy(test)]

    def _batches(self, rows: Index, seed: int) -> Iterator[Index]:
        """Places in ``rows`` of each step, pairs of like length together within a window."""
        size, generator = self.recipe.batch_size, np.random.default_rng(seed)
        lengths = self._lengths(rows)
        for _ in range(self.recipe.epochs):
            order = generator.permutation(len(rows))
            for start in range(0, len(rows), size * WINDOW):
                window = order[start : start + size * WINDOW]
                window = window[np.argsort(lengths[window], kind="stable")]
                parts = [window[n : n + size] for n in range(0, len(window), size)]
                for part in generator.permutation(len(parts)):
                    yield parts[part]

    def _by_length(self, rows: Index, size: int) -> list[Index]:
        order = rows[np.argsort(self._lengths(rows), kind="stable")]
        return [order[n : n + size] for n in range(0, len(order), size)]

    def _lengths(self, rows: Index) -> Index:
        return np.array([len(self.cache.pairs[row].prompt) for row in rows], np.intp)

    @torch.no_grad()
    def _features(self) -> Tensor:
        """Difference of what the head reads of both responses, before training. ``(N, D)``."""
        path = self.folder / f"{self.key}-features.safetensors"
        if path.is_file():
            return load_file(path)["differences"]
        result = torch.empty(len(self.cache.pairs), self.reward.head.in_features)
        everything = np.arange(len(self.cache.pairs))
        for rows in track(self._by_length(everything, 8), description="features"):
            batch, below = self.cache.batch(rows.tolist())
            first, second = self.reward.features(batch, below).view(len(rows), 2, -1).unbind(1)
            result[torch.from_numpy(rows)] = (first - second).cpu()
        self.folder.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(".part")
        save_file({"differences": result}, work)
        work.replace(path)
        return result

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(n, p) for n, p in self.reward.named_parameters() if p.requires_grad]

    def _key(self) -> str:
        """Digest of the states and of every weight above them, adapters included."""
        digest = hashlib.blake2b(self.cache.key.encode(), digest_size=10)
        digest.update(self.reward.pooling.encode())
        for name, tensor in sorted(self.reward.model.top.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def labels_of(rows: Sequence[int], p_first: Sequence[float | None], weight: float = 1.0) -> Labels:
    """Make labels of those pairs ``rows`` that have one; others are None or NaN. ``(M,)``."""
    kept = [
        (r, p) for r, p in zip(rows, p_first, strict=True) if p is not None and not math.isnan(p)
    ]
    return Labels(
        np.array([row for row, _ in kept], np.intp),
        np.array([p for _, p in kept], np.float64),
        np.full(len(kept), weight),
    )
