"""What every labeler that asks a model has in common: a strategy, a back end, a temperature to fit."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rlaif_pl.labeling import outcome
from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Ask, Backend, Call, Response, Watch, key_of
from rlaif_pl.labeling.outcome import MIN_OPTION_MASS, Judgment, LabelerInfo, VerdictOptions
from rlaif_pl.labeling.thinking import Thinking, thoughtful
from rlaif_pl.statistics import fit_temperature
from rlaif_pl.types import Labeler, Preference

LEAST_PAIRS = 20  # below this the fitted temperature is mostly chance


class ReplyCache(Protocol):
    """Where replies are kept between runs."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Response]:
        """Return the replies that are there, by key (see ``calls.key_of``)."""

    def put(self, key: bytes, call: Call, reply: Response, fingerprint: str) -> None:
        """Keep a reply; it is on disk when this returns."""


@dataclass(eq=False)
class CachedClient:
    """Asks a back end what is not known yet; keeps replies as they came, hands them on ``readable``."""

    backend: Backend  # who answers
    store: ReplyCache | None = None  # None keeps replies for the life of this object only
    watch: Watch | None = None  # told of every new reply
    min_option_mass: float = MIN_OPTION_MASS  # least probability of a choice's options together
    _has_warned: bool = field(default=False, init=False)
    # replies that no store gives back: all of them without one, else those that it has asked again:
    # failures, and choices with options that were not reported
    _kept: dict[bytes, Response] = field(default_factory=dict, init=False)

    def ask(self, calls: Sequence[Call]) -> list[Response]:
        """Return a reply for each call, in order; failures come back as replies, too."""
        fingerprint = self.backend.fingerprint
        keys = [key_of(fingerprint, call) for call in calls]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        unknown = [key for key in keys if key not in known]
        if self.store is not None and unknown:
            known |= self.store.get_many(unknown)
        fresh = {key: call for key, call in zip(keys, calls, strict=True) if key not in known}
        asked = list(fresh.items())

        def done(place: int, reply: Response) -> None:
            key, call = asked[place]
            if self.store is not None:
                self.store.put(key, call, reply, fingerprint)
            known[key] = reply
            if self.store is None or not reply.is_whole:
                self._kept[key] = reply
            self._check_mass(call, reply)
            if self.watch is not None:
                self.watch(call, reply)

        if asked:
            self.backend.answer([call for _, call in asked], done)
        replies = []
        for key, call in zip(keys, calls, strict=True):
            self._check_mass(call, known[key])  # of those that were kept
            replies.append(outcome.readable(call, known[key], self.min_option_mass))
        return replies

    def _check_mass(self, call: Call, reply: Response) -> None:
        """Warn once of a choice whose options are too unlikely, as early as it is known."""
        if self._has_warned:
            return
        text = outcome.low_mass_warning(call, reply, self.min_option_mass)
        if text is not None:
            self._has_warned = True
            warnings.warn(text, stacklevel=3)


class ModelLabeler(ABC):
    """A labeler that turns pairs into calls to a model and replies into judgments.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0.
        verdict: How choices become labels; None for a strategy that asks for none.
        thinking: Have the model think before each verdict; None asks without thoughts.
        chat: Ask through the model's chat template.
    """

    strategy: str
    """Name of the strategy, as written into labels."""

    def __init__(
        self,
        backend: Backend | str,
        temperature: float,
        verdict: VerdictOptions | None = None,
        thinking: Thinking | None = None,
        chat: bool = False,
    ) -> None:
        if thinking is not None and not chat:
            raise ValueError(
                "expected chat_template: true with thinking, got false: only a chat template knows "
                "where thoughts begin and end; set it, or take cot: true for a rationale in plain text"
            )
        self.backend = as_backend(backend)
        self.temperature = outcome.checked_temperature(temperature)
        read = verdict or VerdictOptions()
        self.min_option_mass = None if verdict is None else verdict.min_option_mass
        self.hard, self.clamp = read.hard, read.limits()
        self.thinking, self.chat = thinking, chat
        self.asker = CachedClient(self.backend, min_option_mass=read.min_option_mass)

    @property
    @abstractmethod
    def prompt_version(self) -> str:
        """Version of the prompt and of every setting of the strategy that can change a label."""

    @abstractmethod
    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order, asking the model as often as it takes."""

    @property
    def fingerprint(self) -> str:
        """Everything that can change a label."""
        least = self.min_option_mass
        return (
            f"{self.strategy};{self.backend.fingerprint};{self.prompt_version};"
            f"temperature={self.temperature!r}"
            + ("" if least is None else f";min_option_mass={least!r}")
            + ("" if self.thinking is None else f";{self.thinking.version}")
        )

    @property
    def ask(self) -> Ask:
        """Answers the calls of this labeler: kept, counted, and after thoughts where wanted."""
        return thoughtful(self.asker.ask, self.thinking)

    def keep_replies(self, store: ReplyCache | None, watch: Watch | None = None) -> None:
        """Keep every reply in ``store`` (None: in memory only) and tell ``watch``, which may stop."""
        self.asker.store = store
        self.asker.watch = watch

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Label pairs; order and identity are kept."""
        signature = LabelerInfo(self.backend.fingerprint, self.strategy, self.prompt_version)
        how = (signature, self.temperature, self.hard, self.clamp)
        judged = zip(pairs, self.judge(pairs, self.ask), strict=True)
        return [outcome.labeled(pair, judgment, *how) for pair, judgment in judged]


def calibrate(labeler: Labeler, gold: Sequence[Preference]) -> float:
    """Set a labeler's temperature to that under which people's labels are likeliest, and return it.

    ValueError: the labeler has no temperature, or fewer than 20 pairs have a gold label and a margin.
    Use other pairs than those that later report the labeler's quality.
    """
    if not hasattr(labeler, "temperature"):
        raise ValueError(
            f"expected a labeler with a temperature to fit, got {type(labeler).__name__}; "
            "leave fit_temperature_on out"
        )
    known = [pair for pair in gold if pair.p_first is not None]
    judged = labeler.label([replace(pair, p_first=None, source=None) for pair in known])
    rows = [
        (label.provenance.margin, pair.p_first)
        for label, pair in zip(judged, known, strict=True)
        if label.p_first is not None and label.provenance.margin is not None
    ]
    if len(rows) < LEAST_PAIRS:
        raise ValueError(
            f"expected at least {LEAST_PAIRS} labeled gold pairs to fit a temperature, got "
            f"{len(rows)} of {len(gold)}; set the temperature by hand or bring more pairs"
        )
    labeler.temperature = fit_temperature(*np.asarray(rows, dtype=np.float64).T)
    return float(labeler.temperature)
