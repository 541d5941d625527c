"""Label pairs in several processes, on one machine or many, through Lightning's ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.distributed import _InfiniteBarrier
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from rlaif_pl.data.failures import is_asked_again
from rlaif_pl.data.label_parts import LabelParts
from rlaif_pl.data.label_store import LabelStore, Texts, texts_of, with_label
from rlaif_pl.data.labeling_pass import unlabeled
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.engine.allocator import keep_freed_memory
from rlaif_pl.labeling.usage.summary import summarize_labels
from rlaif_pl.training.trainer_check import check_served
from rlaif_pl.types import Batch, Labeler, Preference


class LabelingModule(LightningModule):
    """Each rank labels its share of the pairs; rank 0 puts the shares together.

    Serve ``comparisons``. Labels are kept batch by batch in ``OUT/parts``, which all ranks must see: a
    repeated run, also with another number of ranks, asks only for what is missing, or failed in a way
    that may pass (``timeout``, ...).

    Args:
        labeler: Who judges; each rank has its own copy.
        out: Folder for labeled.jsonl (usable labels in the order of the data), metrics.json and parts.
        store: File of labels to put the merged labels into as well, where training finds them;
            only rank 0 opens it. None leaves that out.

    Attributes:
        labeled: All pairs in order once ``predict`` is done, failures included; on rank 0 only.
    """

    def __init__(self, labeler: Labeler, out: str, store: str | None = None) -> None:
        super().__init__()
        self.labeler, self.out, self.store = labeler, Path(out), store
        self.labeled: list[Preference] = []
        self._known: dict[Texts, Preference] = {}
        self._parts: LabelParts | None = None
        self._all_labeled = ExitStack()  # closed where all ranks are done

    @property
    def parts(self) -> LabelParts:
        """Files of labels; this rank's is written to."""
        found = LabelParts(self.out / "parts", self.labeler.fingerprint, self.global_rank)
        if self._parts is None or self._parts.path != found.path:
            self._parts = found
        return self._parts  # the same one for all batches: it knows where its file ends

    @override
    def setup(self, stage: str) -> None:
        check_served(self, "comparisons")
        precision = str(self.trainer.precision)
        if precision.endswith("-true") and precision != "32-true":  # and set torch's default type
            raise ValueError(
                f"expected trainer.precision to be 32-true for labeling, got {precision}; a local "
                "labeler computes in its own dtype: set the labeler's dtype instead"
            )

    @override
    def on_predict_start(self) -> None:
        keep_freed_memory()
        self._known = {
            texts: pair
            for texts, pair in self.parts.read().items()
            if pair.p_first is not None or not is_asked_again(pair.provenance.failure)
        }
        self.trainer.strategy.barrier("labels-read")  # before any rank adds to its file
        # Ranks may end hours apart, after a kill above all; a barrier of the strategy, NCCL's too, ends
        # a run after half an hour.
        self._all_labeled.enter_context(_InfiniteBarrier())

    @override
    def predict_step(self, batch: Batch[Preference], batch_idx: int) -> int:
        own = zip(batch.rows, batch.is_padding, strict=True)
        fresh = {texts_of(pair): unlabeled(pair) for pair, is_padding in own if not is_padding}
        missing = [pair for texts, pair in fresh.items() if texts not in self._known]
        if missing:
            answers = self.labeler.label(missing)
            self.parts.append(answers)
            self._known |= {texts_of(answer): answer for answer in answers}
        return len(missing)

    @override
    def on_predict_end(self) -> None:
        self._all_labeled.close()
        if self.global_rank == 0:
            loader: Any = self.trainer.predict_dataloaders
            self._publish(loader.rows)
        self.trainer.strategy.barrier("labels-merged")

    @override
    def configure_optimizers(self) -> None:
        return None

    def _publish(self, pairs: Sequence[Preference]) -> None:
        found = self.parts.read()
        missing = sum(texts_of(pair) not in found for pair in pairs)
        if missing:
            raise ValueError(
                f"expected labels of {len(pairs)} pairs in {self.parts.folder}, {missing} are missing; "
                "let every rank write to a folder that rank 0 sees, and predict all batches"
            )
        self.labeled = [with_label(pair, found[texts_of(pair)]) for pair in pairs]
        usable = [pair for pair in self.labeled if pair.p_first is not None]
        write_preferences(self.out / "labeled.jsonl", usable)
        if self.store is not None:
            with LabelStore(self.store) as store:
                store.put(self.labeler.fingerprint, self.labeled)
        summary = summarize_labels(self.labeled)
        metrics = summary.to_metrics()
        write_metrics(self.out / "metrics.json", metrics, may_be_missing=metrics)
        rank_zero_info(
            f"labels: {len(usable)} of {len(self.labeled)} pairs in {self.out / 'labeled.jsonl'}; "
            f"failures: {summary.counts.reasons or 'none'}"
        )
