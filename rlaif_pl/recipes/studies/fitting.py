"""Fit rewards to labels of some pairs and read their margins on others, from kept trunk states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.data.disk import replaced
from rlaif_pl.data.metric_files import write_json
from rlaif_pl.errors import above, at_least
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.recipes.studies.states import StateCache, digest_weights
from rlaif_pl.training.optimizers import LinearDecay
from rlaif_pl.training.reward_module import fit_probe

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Method = Literal["head", "top"]
WINDOW = 8  # batches whose pairs are sorted by length together, to pad less


@dataclass(frozen=True)
class Recipe:
    """How a reward is fitted.

    Attributes:
        penalty: L2 penalty of the logistic fit that gives the head (see ``fit_probe``).
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
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        at_least(0, penalty=self.penalty)
        above(0, lr=self.lr)


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
    """Put labels of several sources together, one row a pair, which trains as they would.

    ``a CE(p) + b CE(q) = (a + b) CE((a p + b q) / (a + b))`` plus what no reward changes.
    """
    weight = np.concatenate([part.weight for part in parts])
    target = np.concatenate([part.target for part in parts])
    pairs, place = np.unique(np.concatenate([part.rows for part in parts]), return_inverse=True)
    total = np.bincount(place, weight).astype(np.float64)
    return Labels(pairs, np.bincount(place, weight * target) / total, total)


def labels_of(rows: Sequence[int], p_first: Sequence[float | None], weight: float = 1.0) -> Labels:
    """Make labels of those pairs ``rows`` that have one; others are None or NaN. ``(M,)``."""
    target = np.array(p_first, np.float64)  # None is NaN
    kept = np.isfinite(target)
    places = np.array(rows, np.intp)[kept]
    return Labels(places, target[kept], np.full(len(places), weight))


class Fitter:
    """Fits the head, or head and top, of one reward model, each time from the weights it has now."""

    def __init__(
        self, reward: RewardModel, cache: StateCache, recipe: Recipe, folder: Path | str
    ) -> None:
        self.reward, self.cache, self.recipe = reward, cache, recipe
        self.folder = Path(folder)
        self.lengths = np.array([len(pair.prompt) for pair in cache.pairs], np.intp)
        self.trained = [p for p in reward.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        digest = hashlib.blake2b(cache.key.encode(), digest_size=10)
        digest.update(reward.pooling.encode())
        digest_weights(digest, reward.model.top)
        self.key = digest.hexdigest()  # of the states and every weight above, adapters included
        # of what the head reads of both responses, before training. `(N, D)`
        self.differences = self._features()

    def margins(self, labels: Labels, test: Index, method: Method, seed: int) -> Array:
        """Fit on labels, at least one; reward of the first less that of the second of ``test`` pairs.

        ``head`` fits the head by logistic regression on the frozen model's states; ``top`` then trains
        adapters and head from there, in an order by ``seed``. Margins are in nats, all finite (else
        ValueError), ``(len(test),)``; no post of ``test`` may be among the labels' pairs.
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
            got = f"after fitting {len(target)} labels, got NaN or infinity"
            raise ValueError(f"expected finite margins {got}; {advice}")
        return np.asarray(result.double().numpy(), np.float64)

    def _kept_top(self, labels: Labels, test: Index, head: Tensor, seed: int) -> Tensor:
        facts = [self.key, asdict(self.recipe), seed, labels.rows.tolist(), labels.target.tolist()]
        text = json.dumps([*facts, labels.weight.tolist(), test.tolist()])
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        path = self.folder / "fits" / f"{name}.json"
        if path.is_file():
            return torch.tensor(json.loads(path.read_text(encoding="utf-8")))
        self._train(labels, head, seed)
        result = self._less_second(test, self.reward.rewards, self.recipe.batch_size).squeeze(1)
        if torch.isfinite(result).all():  # the caller refuses any other
            write_json(path, result.tolist())
        return result

    def _train(self, labels: Labels, head: Tensor, seed: int) -> None:
        for parameter, value in zip(self.trained, self.start, strict=True):
            parameter.data.copy_(value)
        self.reward.head.weight.data.copy_(head[None])
        recipe = self.recipe
        optimizer = torch.optim.AdamW(self.trained, lr=recipe.lr, weight_decay=0.0)
        batches = list(self._batches(labels.rows, seed))
        warmup = min(recipe.warmup_steps, len(batches) - 1)
        schedule = LinearDecay(optimizer, warmup_steps=warmup, total_steps=len(batches))
        for chosen in track(batches, description=f"fitting {len(labels.rows)} labels"):
            batch = self.cache.batch(labels.rows[chosen].tolist())
            first, second = self.reward.rewards(*batch).view(-1, 2).unbind(1)
            target = torch.tensor(labels.target[chosen], dtype=torch.float32, device=first.device)
            weight = torch.tensor(labels.weight[chosen], dtype=torch.float32, device=first.device)
            loss = ops.pairwise_ce(first, second, target, weight).sum() / weight.sum().clamp(1e-12)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, recipe.clip)
            optimizer.step()
            schedule.step()

    def _batches(self, rows: Index, seed: int) -> Iterator[Index]:
        """Places in ``rows`` of each step, pairs of like length together within a window."""
        size, generator = self.recipe.batch_size, np.random.default_rng(seed)
        for _ in range(self.recipe.epochs):
            order = generator.permutation(len(rows))
            for start in range(0, len(rows), size * WINDOW):
                window = order[start : start + size * WINDOW]
                window = window[np.argsort(self.lengths[rows[window]], kind="stable")]
                parts = [window[n : n + size] for n in range(0, len(window), size)]
                for part in generator.permutation(len(parts)):
                    yield parts[part]

    def _features(self) -> Tensor:
        path = self.folder / f"{self.key}-features.safetensors"
        if path.is_file():
            return load_file(path)["differences"]
        everything = np.arange(len(self.cache.pairs))
        result = self._less_second(everything, self.reward.features, 8, "features")
        with replaced(path) as file:
            file.write(save({"differences": result}))
        return result

    @torch.no_grad()
    def _less_second(
        self, rows: Index, of: Callable[..., Tensor], size: int, title: str = ""
    ) -> Tensor:
        """What ``of`` gives for the first response less that for the second. ``(len(rows), D)``."""
        order = np.argsort(self.lengths[rows], kind="stable")
        found = []
        for start in track(range(0, len(rows), size), description=title, disable=not title):
            chosen = rows[order[start : start + size]]
            values = of(*self.cache.batch(chosen.tolist())).view(len(chosen), 2, -1)
            found.append((values[:, 0] - values[:, 1]).float().cpu())
        result = torch.cat(found)
        return result[torch.from_numpy(np.argsort(order))]
