"""Records that every part of the package speaks: prompts, preferences and the protocols over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

if TYPE_CHECKING:  # importing torch takes seconds, which commands that compute nothing do without
    from torch import Tensor

Source = Literal["ai", "human", "reading", "synthetic"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: who speaks, and what is said."""

    role: Role
    content: str


Messages = tuple[Message, ...]


class Conversation(str):
    """A conversation written as one text that keeps its turns, for a chat template.

    Equal to the plain text, which is what everything but a chat template reads. Of ``messages``, its
    turns, the one to respond to comes last.
    """

    messages: Messages

    def __new__(cls, text: str, messages: Messages = ()) -> Conversation:
        """Make the string."""
        made = super().__new__(cls, text)
        made.messages = messages
        return made


def _keep_turns(record: Preference | Prompt, name: str) -> None:
    """Make the text of a record and its ``messages`` say the same, whichever came with turns."""
    text = getattr(record, name)
    given = record.messages or getattr(text, "messages", None) or ()
    messages = tuple(map(_message, given))
    if messages:
        object.__setattr__(record, name, Conversation(text, messages))
    object.__setattr__(record, "messages", messages or None)


def _message(given: Any) -> Message:
    """Return a message that may be given as JSON has it: a mapping, or its values."""
    if isinstance(given, Message):
        return given
    return Message(**given) if isinstance(given, Mapping) else Message(*given)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to respond to.

    Attributes:
        text: What the response is about, without any template (a post, a dialogue).
        group: Identity of the prompt; splits and bootstraps never separate rows of one group.
        reference: A demonstration written by a person, where there is one.
        columns: Further columns of the row, for rewards that name them: values as JSON has them.
        messages: Turns of the conversation that ``text`` writes out, the one to respond to last; a
            chat template reads these (``Template.chat``). None for a text that is no conversation.
    """

    text: str
    group: str
    reference: str | None = None
    columns: dict[str, Any] = field(default_factory=dict, hash=False)
    messages: Messages | None = None

    def __post_init__(self) -> None:
        _keep_turns(self, "text")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a preference came from and what its label cost."""

    first_policy: str | None = None  # who wrote the first response: a checkpoint, a person's role
    second_policy: str | None = None  # who wrote the second
    labeler: str | None = None  # model (and revision) that labeled, or the human annotator
    # `likelihood`, `pairwise`, `free_form`, `score`, `rubric`, `listwise`, `constitution`, `ensemble`
    # or `human`
    strategy: str | None = None
    prompt_version: str | None = None  # of the labeling prompt
    margin: float | None = None  # log-odds of the first response before any temperature, in nats
    # |p(first) in order 1 - p(first) in order 2|; None where a strategy has no order
    position_gap: float | None = None
    # slot (1 or 2) that was named in both orders, which for prompts that ask for the worse response is
    # where the worse one stood; None where there is no order or they differ
    slot: int | None = None
    same_slot: bool | None = None  # whether the same slot won in both orders; None: no order
    off_option_mass: float | None = None  # probability outside the verdicts, mean of the orders
    tie_mass: float | None = None  # of a tie among them, likewise; None where none is asked for
    # greatest difference of two members' `p_first` in an ensemble, in [0, 1]
    ensemble_spread: float | None = None
    confidence: int | None = None  # annotator's, on the data set's own scale
    tokens: int = 0  # read and written to make the label
    written: int = 0  # of these, written (rationales, free-form verdicts)
    cost_usd: float = 0.0  # paid for the label
    failure: str | None = None  # why there is no usable label (`malformed`, ...); None if there is


@dataclass(frozen=True, slots=True)
class Preference:
    """Two responses to one prompt and how much better the first is.

    Attributes:
        prompt: Text both responses reply to, without any template.
        first: One response.
        second: The other.
        group: Identity of the prompt (see ``Prompt.group``).
        p_first: Probability that the first is better, in [0, 1]; None where not labeled.
        weight: Importance in the reward loss, at least 0.
        source: Who judged: an AI labeler, people, a language model that read the pair blind and with
            reasons (``reading``), or nobody (``synthetic``: the pair was written as a better and a
            worse response); None where not labeled.
        provenance: Where responses and label came from.
        messages: Turns of the prompt; see ``Prompt.messages``.
    """

    prompt: str
    first: str
    second: str
    group: str
    p_first: float | None = None
    weight: float = 1.0
    source: Source | None = None
    provenance: Provenance = field(default_factory=Provenance)
    messages: Messages | None = None

    def __post_init__(self) -> None:
        _keep_turns(self, "prompt")


Row = TypeVar("Row", Preference, Prompt)


class Batch(Generic[Row]):
    """Rows that a process takes at a time; ``N`` rows.

    No tuple and no dataclass: Lightning would take the records apart to look for tensors, and cast
    labels to the precision of the trainer.
    """

    def __init__(
        self, rows: Sequence[Row], positions: Sequence[int], is_padding: Sequence[bool]
    ) -> None:
        self.rows: Sequence[Row] = rows
        self.positions = positions  # of each in the data set; keys its sampling noise
        # True where a row repeats another only to keep ranks in step; it must count nowhere
        self.is_padding = is_padding

    @property
    def prompts(self) -> list[str]:
        """Texts of the prompts."""
        return [row.prompt if isinstance(row, Preference) else row.text for row in self.rows]

    def given(self, name: str) -> list[Any]:
        """Return a field of each row; ValueError says which row has none."""
        for position, row in zip(self.positions, self.rows, strict=True):
            if getattr(row, name) is None:
                raise ValueError(
                    f"expected rows with {name}, row {position} (group {row.group!r}) has no {name}; "
                    "fill it in or leave the row out"
                )
        return [getattr(row, name) for row in self.rows]


class SampledResponse(NamedTuple):
    """One response of a policy in training, for tables."""

    step: int
    prompt: str
    response: str
    reward: float


@runtime_checkable
class Labeler(Protocol):
    """Judges which of two responses is better."""

    @property
    def fingerprint(self) -> str:
        """Everything that can change a label: model, revision, strategy, prompt version, settings."""

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Return the pairs in order, with ``p_first``, ``source`` and ``provenance`` filled in.

        A pair that could not be judged comes back with ``p_first=None`` and ``provenance.failure``.
        """


@runtime_checkable
class PointwiseLabeler(Labeler, Protocol):
    """A labeler that scores one response at a time, so pairs follow from differences."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return one score a response; the difference of two is the margin in nats."""


@runtime_checkable
class Reward(Protocol):
    """Maps a prompt and a response to a number to maximize.

    Further arguments of ``score`` are given the columns of the data that they name, one value a
    response, and ``**columns`` all of them; see ``rl.reward_columns``.
    """

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return rewards ``(N,)`` in float32."""
