"""Ask a labeler for missing labels, a chunk at a time, so that a kill costs a chunk at most."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from rlaif_pl.data.disk_rows import DiskRows, first_places, key_codes, select
from rlaif_pl.data.failures import is_asked_again
from rlaif_pl.data.label_store import LabelStore, texts_of
from rlaif_pl.types import Labeler, Preference, Provenance


@dataclass(frozen=True)
class Labeling:
    """Who labels pairs, which ones, and where the labels are kept.

    Attributes:
        labeler: Judges pairs that have no label; None where all have one.
        relabel: Ask the labeler for every pair, also where the data set has a label.
        retry_failed: Ask again for pairs that the labeler could not judge in an earlier run.
        store: File of labels, made if it is not there.
        progress: Whether to show a progress bar while labeling.
    """

    labeler: Labeler | None = None
    relabel: bool = False
    retry_failed: bool = False
    store: str = "~/.cache/rlaif_pl/labels.sqlite"
    progress: bool = True


@dataclass(frozen=True, slots=True)
class LabelingResult:
    """Labels with an account of what they cost and what failed."""

    answers: Sequence[Preference]  # all pairs in order; `p_first=None` where there is no label
    unusable: dict[str, int] = field(default_factory=dict)  # why there is none, to number of pairs
    reused: int = 0  # answers (usable or not) that were in the store already
    new: int = 0  # answers asked for now

    @property
    def rows(self) -> Sequence[Preference]:
        """Pairs with a usable label, in order."""
        places = (n for n, answer in enumerate(self.answers) if answer.p_first is not None)
        return select(self.answers, places)


def unlabeled(pair: Preference) -> Preference:
    """Return a pair without its label and whence that came; who wrote the responses is kept."""
    provenance = Provenance(pair.provenance.first_policy, pair.provenance.second_policy)
    return dataclasses.replace(pair, p_first=None, source=None, provenance=provenance)


def label_pairs(
    pairs: Sequence[Preference],
    labeler: Labeler,
    store: LabelStore,
    chunk: int = 64,
    progress: bool = True,
    retry_failed: bool = False,
    retry_transient: bool = False,
    note: Callable[[], str] | None = None,
) -> LabelingResult:
    """Label pairs through the store; labels they already have are not shown to the labeler.

    Args:
        pairs: What to label.
        labeler: Who judges; ValueError where it returns other pairs than it was given.
        store: Where answers are looked up and kept.
        chunk: Pairs asked for between two commits, at least 1.
        progress: Whether to show a progress bar.
        retry_failed: Ask again where the stored answer is a failure; a resumed run may then train on
            other rows than the unbroken one.
        retry_transient: The same only where the failure may have passed by now (``is_asked_again``).
        note: Says in a few words what was spent so far, shown beside the progress bar.
    """
    if chunk < 1:
        raise ValueError(f"expected chunk of at least 1, got {chunk}")
    fingerprint = labeler.fingerprint
    missing = missing_pairs(pairs, fingerprint, store, retry_failed, retry_transient)
    columns = [*Progress.get_default_columns(), *([] if note is None else [_Note(note)])]
    is_hidden = not (progress and missing)
    with Progress(*columns, console=Console(stderr=True), disable=is_hidden) as bar:
        task = bar.add_task("labeling", total=len(missing))
        for start in range(0, len(missing), chunk):
            asked = list(missing[start : start + chunk])
            answers = labeler.label(asked)
            if list(map(texts_of, asked)) != list(map(texts_of, answers)):
                raise ValueError(
                    f"expected {fingerprint} to return the {len(asked)} pairs it was given, in order, "
                    f"got {len(answers)} others; fix its label()"
                )
            store.put(fingerprint, answers)
            bar.advance(task, len(asked))
    found = stored_labels(pairs, fingerprint, store)
    return dataclasses.replace(found, reused=len(pairs) - len(missing), new=len(missing))


def missing_pairs(
    pairs: Sequence[Preference],
    fingerprint: str,
    store: LabelStore,
    retry_failed: bool = False,
    retry_transient: bool = False,
) -> Sequence[Preference]:
    """Return the pairs that ``label_pairs`` would ask for, each once, without any label."""

    def is_missing(answer: Preference | None) -> bool:
        if answer is None or answer.p_first is not None:
            return answer is None
        return retry_failed or (retry_transient and is_asked_again(answer.provenance.failure))

    found = store.look_up(fingerprint, pairs)
    rows = DiskRows(unlabeled(pair) for pair, answer in found if is_missing(answer))
    return select(rows, first_places(key_codes(map(texts_of, rows))))


def stored_labels(
    pairs: Sequence[Preference], fingerprint: str, store: LabelStore
) -> LabelingResult:
    """Read the labels of pairs that were all asked for before; ValueError if some were not."""
    answers = store.look_up(fingerprint, pairs)
    found = DiskRows(answer for _, answer in answers if answer is not None)
    if len(found) < len(pairs):
        raise ValueError(
            f"expected labels of {len(pairs)} pairs by {fingerprint} in {store.path}, "
            f"{len(pairs) - len(found)} are missing; label the pairs first, and let every "
            "process see the same store of labels"
        )
    unusable = Counter(
        answer.provenance.failure or "no reason given" for answer in found if answer.p_first is None
    )
    return LabelingResult(found, dict(unusable), reused=len(pairs))


class _Note(ProgressColumn):
    """A few words that change by themselves."""

    def __init__(self, note: Callable[[], str]) -> None:
        super().__init__()
        self._say = note

    def render(self, task: Task) -> Text:  # noqa: ARG002 (the words are about the whole job)
        return Text(self._say())
