"""Back end on a transformers model of this machine."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from rlaif_pl.engine.sampling import sample_seed
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling.backends.local_model import LocalModel, PlainRunner
from rlaif_pl.labeling.backends.local_rows import Encoder, Row, UnreadableError, option_logprobs
from rlaif_pl.labeling.backends.local_write import Runner, Task, Writer
from rlaif_pl.labeling.calls import (
    Call,
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    Response,
    ThinkRequest,
)
from rlaif_pl.models.backbone import EMBEDDED, Precision
from rlaif_pl.models.precision import own_precision

Done = Callable[[int, Response], None]


class LocalBackend:
    """Answers calls with a frozen language model, loaded on first use.

    What texts begin with in common is computed once (the preamble and exemplars of a job, the post of a
    pair's two orders, the question of several samples), and logits only where they are needed. An
    architecture that cannot be read like that is noticed by a self-test and read the plain way,
    with a warning.

    Args:
        model: Embedded model, folder or hub name (see ``load_backbone``); an encoder-decoder too.
        num_layers: Keep only the model's first layers; None keeps them all.
        dtype: Type of the weights.
        device: Where to run: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` is the command's
            device, a GPU where there is one.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
        batch_tokens: Most tokens in one forward pass.
        max_tokens: Longest text with its answer; longer ones fail as ``too_long``. The model's own
            context may be shorter and then holds.
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        num_layers: int | None = None,
        dtype: Precision = "float32",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = 4096,
        max_tokens: int = 4096,
    ) -> None:
        for name, value in (("batch_tokens", batch_tokens), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.batch_tokens = batch_tokens
        self.max_tokens = max_tokens
        self.model = LocalModel(
            model,
            num_layers=num_layers,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )

    @property
    def fingerprint(self) -> str:
        """Model, revision, layers, precision, the longest text, and how chats are begun."""
        return f"{self.model.fingerprint};max_tokens={self.max_tokens};thoughts=closed"

    @property
    def limit(self) -> int:
        """Longest text with its answer, in tokens."""
        return min(self.max_tokens, self.model.info.max_model_len or self.max_tokens)

    @cached_property
    def encoder(self) -> Encoder:
        """What turns calls into token rows."""
        model = self.model
        stops = model.info.stop_token_ids
        return Encoder(model.tokenizer, self.limit, model.decoder_start, stops)

    @cached_property
    def runner(self) -> Runner:
        """The engine's way to run texts, or the plain one for models that it does not reproduce."""
        if self.model.is_encoder_decoder:
            return self._fall_back("it is an encoder-decoder")
        try:
            self.model.unembedding  # noqa: B018 - found out on first use
        except ValueError as error:
            return self._fall_back(str(error))
        can = self.model.top.capabilities
        if not (can.packs and can.decodes):
            return self._fall_back(str(can.reason))
        return PrefixTreeRunner(self.model, self.batch_tokens)

    def answer(self, calls: Sequence[Call], done: Done) -> None:
        """Answer calls; see ``calls.Backend``."""
        rows: list[Row] = []
        spans: dict[int, range] = {}
        questions: dict[tuple[Decoding, Row], list[int]] = {}
        thoughts: dict[tuple[Decoding, Row], list[int]] = {}
        for place, call in enumerate(calls):
            try:
                if isinstance(call, GenerateRequest):
                    row = self.encoder.question(call.question)
                    questions.setdefault((call.decoding, row), []).append(place)
                elif isinstance(call, ThinkRequest):
                    row, closing = self.encoder.thinking(call.question)
                    until = replace(call.decoding, stop=(closing,))
                    thoughts.setdefault((until, row), []).append(place)
                else:
                    own = self.encoder.rows(call)
                    spans[place] = range(len(rows), len(rows) + len(own))
                    rows += own
            except UnreadableError as failure:
                done(place, Response(failure=str(failure)))
        with own_precision(self.model.device.type):
            self._judge(calls, rows, spans, done)
            self._write(calls, questions, done)
            self._write(calls, thoughts, done, are_thoughts=True)

    def _judge(
        self, calls: Sequence[Call], rows: Sequence[Row], spans: dict[int, range], done: Done
    ) -> None:
        """Answer what needs log-probabilities; a call is done when all its rows are."""
        if not rows:
            return
        place_of = {n: place for place, span in spans.items() for n in span}
        missing = {place: len(span) for place, span in spans.items()}
        known: dict[int, list[float]] = {}
        for found, seconds in timed(self.runner.score(rows)):
            ready = []
            for n, logprobs in found:
                known[n] = logprobs
                missing[place_of[n]] -= 1
                if not missing[place_of[n]]:
                    ready.append(place_of[n])
            for place in ready:
                span = spans[place]
                values = [known.pop(n) for n in span]
                own = [rows[n] for n in span]
                done(place, judged(calls[place], own, values, seconds / len(ready)))

    def _write(
        self,
        calls: Sequence[Call],
        questions: dict[tuple[Decoding, Row], list[int]],
        done: Done,
        are_thoughts: bool = False,
    ) -> None:
        """Answer what needs text, all of one decoding together."""
        tasks: dict[Decoding, list[Task]] = {}
        for (decoding, row), places in questions.items():
            seeds = [seed_of(calls[place]) for place in places]
            tasks.setdefault(decoding, []).append(Task(row, places, seeds))
        for decoding, group in tasks.items():
            writer = Writer(self.runner, self.model, self.limit, are_thoughts)
            for answers, seconds in timed(writer.write(group, decoding)):
                for place, reply in answers:
                    done(place, replace(reply, seconds=seconds / len(answers)))

    def _fall_back(self, why: str) -> PlainRunner:
        warnings.warn(
            f"{self.model.name} is run the plain way, in padded batches without caches: {why}",
            stacklevel=2,
        )
        return PlainRunner(self.model, self.batch_tokens)


def judged(
    call: Call, rows: Sequence[Row], logprobs: Sequence[Sequence[float]], seconds: float
) -> Response:
    """Make the response to a choice or log-likelihood request of its rows' log-probabilities."""
    if isinstance(call, ChoiceRequest):
        values, read = option_logprobs(rows, logprobs), rows[0].first + len(rows[0].source)
    else:
        values, read = list(logprobs[0]), rows[0].size
    if not all(-float("inf") < value <= 1e-3 for value in values):
        return Response(read=read, seconds=seconds, failure="nonfinite")
    return Response(logprobs=tuple(min(value, 0.0) for value in values), read=read, seconds=seconds)


def seed_of(call: Call) -> int:
    """Seed of a sample's noise, whichever batch or process draws it."""
    if not isinstance(call, GenerateRequest | ThinkRequest):
        raise TypeError(f"expected a call for text, got {type(call).__name__}")
    q = call.question
    return sample_seed(call.decoding.seed, q.text, q.assistant_prefix, int(q.chat), call.sample)


def timed(batches: Iterator[list]) -> Iterator[tuple[list, float]]:
    """Yield batches with the seconds each took."""
    began = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - began
        began = time.monotonic()
