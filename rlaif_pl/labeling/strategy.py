"""What every labeler that asks a model has in common: a strategy, a back end, a temperature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from rlaif_pl.labeling.asking import CachedClient, ReplyCache
from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Ask, Backend, Call, Response
from rlaif_pl.labeling.guard import MIN_OPTION_MASS, checked_mass
from rlaif_pl.labeling.outcome import Judgment, LabelerInfo, checked_temperature, labeled
from rlaif_pl.labeling.thinking import Thinking, thoughtful
from rlaif_pl.types import Preference


class ModelLabeler(ABC):
    """A labeler that turns pairs into calls to a model and replies into judgments.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0.
        min_option_mass: Least probability of a verdict's options together, in [0, 1); None for a
            strategy that asks for no choice.
        thinking: Have the model think before each verdict; None asks without thoughts.
    """

    strategy: str
    """Name of the strategy, as written into labels."""

    def __init__(
        self,
        backend: Backend | str,
        temperature: float,
        min_option_mass: float | None = None,
        thinking: Thinking | None = None,
    ) -> None:
        self.backend = as_backend(backend)
        self.temperature = checked_temperature(temperature)
        least = MIN_OPTION_MASS if min_option_mass is None else checked_mass(min_option_mass)
        self.min_option_mass = min_option_mass
        self.thinking = thinking
        self.asker = CachedClient(self.backend, min_option_mass=least)

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

    def keep_replies(
        self, store: ReplyCache | None, watch: Callable[[Call, Response], None] | None = None
    ) -> None:
        """Keep every reply of the model.

        Args:
            store: Where replies are looked up and kept from now on; None keeps them in memory only.
            watch: Told of every new reply; may raise to stop before further calls.
        """
        self.asker.store = store
        self.asker.watch = watch

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Label pairs; order and identity are kept."""
        signature = LabelerInfo(self.backend.fingerprint, self.strategy, self.prompt_version)
        judgments = self.judge(pairs, self.ask)
        return [
            labeled(pair, judgment, signature, self.temperature)
            for pair, judgment in zip(pairs, judgments, strict=True)
        ]
