"""Write answers with a model on this machine: questions read once for all samples of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlaif_pl.labeling.backends.local_model import buckets
from rlaif_pl.labeling.backends.local_plain import PlainReader
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.labeling.backends.local_tree import Part, TreeReader, whole
from rlaif_pl.labeling.calls import Decoding
from rlaif_pl.models.drawing import draw, uniforms
from rlaif_pl.models.prefix_tree import Text, levels
from rlaif_pl.models.tree_run import RowCache


class Task(NamedTuple):
    """Answers to write to one question."""

    row: Row
    places: list[int]  # of the calls, one a sample
    seeds: list[int]  # of the noise, one a sample


class Draft:
    """One answer while it is written.

    Args:
        place: Place of its call.
        last: Last token of the question, which decides how the first token is spelled.
        limit: Most tokens.
        stop: Strings at which it ends.
        ends: Tokens at which it ends.
        tokenizer: Tokenizer of the model.
    """

    def __init__(
        self,
        place: int,
        last: int,
        limit: int,
        stop: Sequence[str],
        ends: frozenset[int],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.place = place
        self.limit = limit
        self.stop = stop
        self.ends = ends
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.failed = False
        self._last = last
        # a character is at most four bytes, and a token at least one
        self._tail = 4 * max(map(len, stop), default=0) + 4

    @property
    def finished(self) -> bool:
        """Whether it ended by itself."""
        return bool(self.tokens) and (self.tokens[-1] in self.ends or self._stops())

    def add(self, token: int) -> bool:
        """Append a token; returns whether the answer goes on."""
        self.tokens.append(token)
        return len(self.tokens) < self.limit and not self.finished

    def text(self) -> str:
        """What was written, without what stopped it."""
        written = [token for token in self.tokens if token not in self.ends]
        before, text = self._decode([self._last]), self._decode([self._last, *written])
        text = text[len(before) :] if text.startswith(before) else self._decode(written)
        places = [text.find(string) for string in self.stop]
        return text[: min((place for place in places if place >= 0), default=None)]

    def _stops(self) -> bool:
        if not self.stop:
            return False
        tail = self._decode(self.tokens[-self._tail :])
        return any(string in tail for string in self.stop)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class Stepper(Protocol):
    """Gives the next token's logits of rows that are being written."""

    def first(self) -> Tensor:
        """Return the logits after the questions. ``(N, V)``."""

    def next(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Go on with some rows of the call before and a token for each. ``(n,)`` to ``(n, V)``."""


class CachedStepper:
    """Reads questions as a tree and goes on token by token.

    Args:
        reader: Who reads.
        part: The questions.
        samples: Answers to write to each question, by its number.
    """

    def __init__(self, reader: TreeReader, part: Part, samples: dict[int, int]) -> None:
        self.model = reader.model
        self.cache = RowCache(self.model.stack, self.model.pad, part.root)
        states: dict[int, Tensor] = {}
        for level in levels(part.trees, to_the_end=True):
            nodes = [placed.node for placed in level]
            hidden = self.cache.advance(
                [placed.parent for placed in level], [node.ids for node in nodes]
            )
            for n, node in enumerate(nodes):
                if not node.children and len(node.ids):
                    states[node.members[0]] = hidden[n, len(node.ids) - 1]
        self.questions = [node.members[0] for node in nodes]
        counts = torch.tensor([samples[n] for n in self.questions])
        self._parents = torch.arange(len(nodes)).repeat_interleave(counts).to(self.model.device)
        self._states = torch.stack([states[n] for n in self.questions])

    def first(self) -> Tensor:
        """See ``Stepper``."""
        return self.model.logits(self._states)[self._parents]

    def next(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See ``Stepper``."""
        rows, tokens = rows.to(self.model.device), tokens.to(self.model.device)
        parents = self._parents[rows]
        hidden = self.cache.advance_ids(
            parents, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool)
        )
        self._parents = torch.arange(len(parents), device=parents.device)
        return self.model.logits(hidden[:, -1])


class PlainStepper:
    """Reads whole texts again for every token.

    Args:
        reader: Who reads.
        rows: A question a row to write.
    """

    def __init__(self, reader: PlainReader, rows: Sequence[Row]) -> None:
        self.reader = reader
        self.texts = [list(row.ids) for row in rows]
        self.sources = [row.source for row in rows]

    def first(self) -> Tensor:
        """See ``Stepper``."""
        logits = self.reader.logits(self.texts, self.sources)
        ends = torch.tensor([len(text) - 1 for text in self.texts], device=logits.device)
        return logits[torch.arange(len(ends), device=logits.device), ends].float()

    def next(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """See ``Stepper``."""
        chosen = rows.tolist()
        self.texts = [
            [*self.texts[n], token] for n, token in zip(chosen, tokens.tolist(), strict=True)
        ]
        self.sources = [self.sources[n] for n in chosen]
        return self.first()


class Writer:
    """Writes answers batch by batch.

    Args:
        reader: Who reads the questions.
        limit: Longest text in tokens, the answer included.
    """

    def __init__(self, reader: TreeReader | PlainReader, limit: int) -> None:
        self.reader = reader
        self.limit = limit
        self.model = reader.model

    def write(self, tasks: Sequence[Task], decoding: Decoding) -> Iterator[list[Draft]]:
        """Yield finished answers, a batch of questions at a time."""
        with torch.no_grad():
            for stepper, group in self._steppers(tasks, decoding):
                yield self._write(stepper, group, decoding)

    def _steppers(
        self, tasks: Sequence[Task], decoding: Decoding
    ) -> Iterator[tuple[Stepper, list[Task]]]:
        """Yield batches of questions, read, with their tasks in the order of the rows."""
        reader, new = self.reader, decoding.max_tokens
        if isinstance(reader, PlainReader):
            sizes = [(len(t.row.ids) + len(t.row.source) + new) * len(t.places) for t in tasks]
            for bucket in buckets(sizes, reader.batch_tokens):
                group = [tasks[n] for n in bucket]
                yield PlainStepper(reader, [t.row for t in group for _ in t.places]), group
            return
        texts = [Text(task.row.ids, len(task.row.ids) - 1) for task in tasks]
        short: list[int] = []
        long: list[int] = []
        for n in sorted(range(len(texts)), key=lambda n: texts[n].ids):
            (short if reader.fits(len(texts[n].ids) + new) else long).append(n)
        samples = {n: len(task.places) for n, task in enumerate(tasks)}
        parts = [whole(texts, [n]) for n in long]  # one at a time: no padding for a window to count
        for part in (*parts, *reader.parts(texts, short, new, max(samples.values(), default=1))):
            members = [n for tree in part.trees for n in tree.members]
            fits = len(members) == 1 or reader.fits(part.width() + new)
            for piece in [part] if fits else [whole(texts, [n]) for n in members]:
                stepper = CachedStepper(reader, piece, samples)
                yield stepper, [tasks[n] for n in stepper.questions]

    def _write(self, stepper: Stepper, tasks: Sequence[Task], decoding: Decoding) -> list[Draft]:
        """Draw token after token until every answer has ended or is cut."""
        drafts = [self._draft(task, place, decoding) for task in tasks for place in task.places]
        seeds = [seed for task in tasks for seed in task.seeds]
        longest = max(draft.limit for draft in drafts)
        noise = uniforms(seeds, longest) if decoding.temperature else None
        logits, rows = stepper.first(), torch.arange(len(drafts))
        for step in range(longest):
            point = torch.zeros(len(rows)) if noise is None else noise[rows, step]
            tokens = draw(logits, point, decoding.temperature, decoding.top_k).cpu()
            is_number = (~logits.isnan().any(-1)).tolist()
            going = []
            for n, token in enumerate(tokens.tolist()):
                draft = drafts[int(rows[n])]
                draft.failed = not is_number[n]
                if not draft.failed and draft.add(token):
                    going.append(n)
            if not going:
                break
            kept = torch.tensor(going)
            rows = rows[kept]
            logits = stepper.next(kept, tokens[kept])
        return drafts

    def _draft(self, task: Task, place: int, decoding: Decoding) -> Draft:
        limit = min(decoding.max_tokens, self.limit - len(task.row.ids))
        last = task.row.ids[-1]
        return Draft(place, last, limit, decoding.stop, self.model.ends, self.model.tokenizer)
