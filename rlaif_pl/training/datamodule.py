"""The one data module: pairs, prompts or demonstrations, for every LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.disk_rows import DiskRows, select
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import Labeling, label_pairs, stored_labels
from rlaif_pl.data.loader import BatchLoader, BatchOrder
from rlaif_pl.data.mixing import PreferencePart, is_mix, load_pairs
from rlaif_pl.data.sources import Data, load_demonstrations, load_prompts, named
from rlaif_pl.data.splits import split_by_group
from rlaif_pl.errors import at_least, one_of
from rlaif_pl.labeling.usage.projection import backends_of
from rlaif_pl.text import word_count
from rlaif_pl.types import Labeler, Preference, Prompt

Serve = Literal["pairs", "prompts", "demonstrations", "comparisons"]
Row = Preference | Prompt
CHOSEN_AT_ONCE = 1024  # rows that are tokenized to be compared
Pairs: TypeAlias = Data | list[PreferencePart]


class PreferenceDataModule(LightningDataModule):
    """Serves one kind of batch, splits by prompt and labels what has no label.

    ``prepare_data`` asks ``labeling.labeler`` for missing labels in one process of the run and keeps
    them in ``labeling.store``, which all ranks must see. Training order depends on ``seed`` and epoch
    only and resumes within an epoch. Batches hold text.

    Args:
        task: ``pairs`` for the reward model, ``prompts`` for the actor, ``demonstrations`` for
            supervised fine-tuning, ``comparisons`` (all of ``preferences``, in file order) for a
            labeler in ``predict``. Only the source of that kind is read.
        preferences: Pairs of responses, labeled or not; a list mixes several sources, each with a
            weight and a temperature of its own.
        prompts: Prompts; references play no part. In Python, what names data may also be the data: a
            list of ``Preference``, ``Prompt``, dict or text, or a ``datasets.Dataset``.
        demonstrations: Prompts with references; those without are left out and counted.
        validation: Held-out data of the served kind; its prompts are left out of training.
        validation_fraction: Without ``validation``, share of prompts to hold out, in [0, 1).
        labeling: Who judges pairs that have no label, and where the labels are kept.
        batch_size: Rows a process takes a training step.
        eval_batch_size: Rows a process takes at a time in validation and prediction.
        drop_last: Leave out the last training batch of an epoch if it is not full. Otherwise ranks
            that are a row short get a filler (see ``Batch.is_padding``).
        bucket: Put pairs or demonstrations of like lengths into a batch, for models that pad.
        seed: Seeds split and order.

    Attributes:
        train_rows: Rows trained on, once set up; ``Batch.positions`` counts in them.
        validation_rows: Rows held out, once set up.
    """

    train_rows: Sequence[Row] = ()
    validation_rows: Sequence[Row] = ()

    def __init__(
        self,
        task: Serve = "pairs",
        preferences: Pairs | None = None,
        prompts: Data | None = None,
        demonstrations: Data | None = None,
        validation: Data | None = None,
        validation_fraction: float = 0.1,
        labeling: Labeling = Labeling(),  # noqa: B008 - frozen
        batch_size: int = 8,
        eval_batch_size: int = 16,
        drop_last: bool = False,
        bucket: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.prepare_data_per_node = False  # several nodes would each pay for the same labels
        sources = {"preferences": preferences, "prompts": prompts, "demonstrations": demonstrations}
        self.task, self.source = task, _required(task, **sources)
        self.validation, self.validation_fraction = validation, validation_fraction
        self.labeling = labeling
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.drop_last, self.bucket, self.seed = drop_last, bucket, seed

    @override
    def prepare_data(self) -> None:
        how = self.labeling
        if self.task != "pairs" or how.labeler is None:  # setup says where one is needed
            return
        sources = [self.source] if self.validation is None else [self.source, self.validation]
        pairs = (row for source in sources for row in load_pairs(source).rows)
        unlabeled = DiskRows(pair for pair in pairs if self._needs_label(pair))
        if not unlabeled:
            return
        labeler = self._labeler_for(len(unlabeled))
        with LabelStore(how.store) as store:
            progress, again = how.progress, how.retry_failed
            result = label_pairs(unlabeled, labeler, store, progress=progress, retry_failed=again)
        for backend in backends_of(labeler):  # of a model on this process's device
            if (unload := getattr(backend, "unload", None)) is not None:
                unload()
        rank_zero_info(
            f"labels by {labeler.fingerprint}: {result.new} new, {result.reused} from {store.path}"
        )
        if result.unusable:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in result.unusable.items())
            rank_zero_warn(
                f"left out {sum(result.unusable.values())} of {len(unlabeled)} pairs that the "
                f"labeler could not judge ({reasons}); labeling.retry_failed asks again"
            )

    @override
    def setup(self, stage: str) -> None:
        rows = self._rows(self.source)
        if self.task == "comparisons":
            self.train_rows = rows
            return
        left_out = 0
        if self.validation is None:
            split = split_by_group(rows, self.validation_fraction, self.seed)
            self.train_rows, self.validation_rows = split
        else:
            self.validation_rows = self._rows(self.validation)
            reserved = {row.group for row in self.validation_rows}
            left = (n for n, row in enumerate(rows) if row.group not in reserved)
            self.train_rows = select(rows, left)
            left_out = len(rows) - len(self.train_rows)
        if not self.train_rows:
            raise ValueError(
                f"expected {self.task} to train on, all {len(rows)} rows share prompts with the "
                "validation data; give another validation source"
            )
        rank_zero_info(
            f"{self.task}: {len(self.train_rows)} to train on, {len(self.validation_rows)} held "
            f"out, {left_out} left out because their prompt is held out"
        )

    def keep_rows(self, choose: Callable[[Sequence[Any]], Sequence[bool]], reason: str) -> None:
        """Leave rows that are not chosen out of both splits, with a warning that counts them.

        To be called after ``setup``. ``choose`` tells of some rows which to keep, of each split one at
        least; ``reason`` says why others are left out, and what to do.
        """

        def chosen(rows: Sequence[Any]) -> Iterator[int]:
            for start in range(0, len(rows), CHOSEN_AT_ONCE):
                part = list(rows[start : start + CHOSEN_AT_ONCE])
                answers = zip(part, choose(part), strict=True)
                yield from (n for n, (_, keep) in enumerate(answers, start) if keep)

        for split, name in (("training", "train_rows"), ("validation", "validation_rows")):
            rows = getattr(self, name)
            kept = select(rows, chosen(rows))
            if rows and not kept:
                raise ValueError(
                    f"expected {self.task} to use in {split}, all {len(rows)} are left out: {reason}"
                )
            if len(kept) < len(rows):
                rank_zero_warn(
                    f"left out {len(rows) - len(kept)} of {len(rows)} {self.task} of {split}: {reason}"
                )
                setattr(self, name, kept)

    @override
    def train_dataloader(self) -> BatchLoader[Any]:
        if not self.train_rows:
            raise ValueError(
                "expected rows to train on, none are read yet; call setup('fit'), or give the data "
                "module to a trainer"
            )
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader(self.train_rows, self.batch_size, shuffle=not overfits)

    @override
    def val_dataloader(self) -> BatchLoader[Any] | list[Any]:
        if not self.validation_rows:
            return []
        return self._loader(self.validation_rows, self.eval_batch_size, shuffle=False)

    @override
    def predict_dataloader(self) -> BatchLoader[Any] | list[Any]:
        if self.task != "comparisons":
            return self.val_dataloader()
        return self._loader(self.train_rows, self.eval_batch_size, shuffle=False)

    def _needs_label(self, pair: Preference) -> bool:
        return self.labeling.relabel or pair.p_first is None

    def _labeler_for(self, count: int) -> Labeler:
        if self.labeling.labeler is None:
            why = "relabel is set" if self.labeling.relabel else f"{count} pairs have no label"
            raise ValueError(
                f"expected a labeler, since {why}; set data.labeling.labeler, or give pairs with "
                "p_first"
            )
        return self.labeling.labeler

    def _rows(self, source: Pairs) -> Sequence[Any]:
        if self.task == "pairs":
            return self._labeled(load_pairs(source).rows)
        if self.task == "comparisons":
            return load_pairs(source).rows
        if is_mix(source):
            raise ValueError(f"expected one source of {self.task}, got {len(source)}; give one")
        if self.task == "prompts":
            return load_prompts(source)
        rows = load_demonstrations(source)
        kept = select(rows, (n for n, row in enumerate(rows) if row.reference is not None))
        if len(kept) < len(rows):
            rank_zero_warn(f"left out {len(rows) - len(kept)} of {len(rows)} without a reference")
        if not kept:
            raise ValueError(
                f"expected demonstrations in {named(source).name}, no row has a reference; name its "
                "column with columns: {prompt: prompt, reference: THEIRS}, or give "
                "prompt/completion or messages"
            )
        return kept

    def _labeled(self, pairs: Sequence[Preference]) -> Sequence[Preference]:
        """Fill labels in from the store, in order, without pairs the labeler could not judge."""
        unlabeled = select(pairs, (n for n, pair in enumerate(pairs) if self._needs_label(pair)))
        if not unlabeled:
            return pairs
        fingerprint = self._labeler_for(len(unlabeled)).fingerprint
        with LabelStore(self.labeling.store) as store:
            answers = iter(stored_labels(unlabeled, fingerprint, store).answers)
        filled = (next(answers) if self._needs_label(pair) else pair for pair in pairs)
        rows = DiskRows(pair for pair in filled if pair.p_first is not None)
        if not rows:
            raise ValueError(
                f"expected labels to train on, {fingerprint} could judge none of {len(unlabeled)} "
                "pairs; look at the failures above and check the labeler"
            )
        return rows

    def _loader(self, rows: Sequence[Any], batch_size: int, shuffle: bool) -> BatchLoader[Any]:
        trainer = self.trainer
        order = BatchOrder(
            num_rows=len(rows),
            batch_size=batch_size,
            rank=0 if trainer is None else trainer.global_rank,
            num_ranks=1 if trainer is None else trainer.world_size,
            seed=self.seed,
            shuffle=shuffle,
            drop_last=self.drop_last and shuffle,
            lengths=np.fromiter(map(_words, rows), np.int32) if self.bucket and shuffle else None,
        )
        return BatchLoader(rows, order)


def _required(task: Serve, **sources: Pairs | None) -> Pairs:
    one_of(Serve, task=task)
    argument = "preferences" if task in ("pairs", "comparisons") else task
    source = sources[argument]
    if source is None:
        given = [name for name, value in sources.items() if value is not None]
        raise ValueError(
            f"expected data.{argument}, since task is {task!r}, got "
            f"{', '.join(given) or 'no source'}; name a file or data set"
        )
    return source


def _words(row: Row) -> int:
    """Measure a row for bucketing: words of the prompt and of its longer response."""
    if isinstance(row, Preference):
        return word_count(row.prompt) + max(word_count(row.first), word_count(row.second))
    return word_count(row.text) + word_count(row.reference or "")
