"""Back end on a transformers model of this machine; questions run once for all samples of each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from rlaif_pl.engine.generate import Generated, generate_tokens
from rlaif_pl.engine.generation_state import GenerationState
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, before_stop, sample_seed
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling.backends.local_model import LocalModel, PlainRunner
from rlaif_pl.labeling.backends.local_rows import Encoder, Row, UnreadableError, option_logprobs
from rlaif_pl.labeling.calls import (
    Call,
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    Response,
    ThinkRequest,
)
from rlaif_pl.labeling.thinking import UNCLOSED
from rlaif_pl.models.backbone import EMBEDDED, BackboneOptions, Precision
from rlaif_pl.models.device import own_precision

Runner = PrefixTreeRunner | PlainRunner
Written = tuple[int, Response]


class Task(NamedTuple):
    """Answers to write to one question."""

    row: Row
    places: list[int]  # of the calls, one a sample
    seeds: list[int]  # of the noise, one a sample


@dataclass
class Writer:
    """Writes answers batch by batch."""

    runner: Runner  # runs the questions
    model: LocalModel  # model that writes
    limit: int  # longest text in tokens, the answer included
    # texts that a stop string must end; control tokens stay in them, as their marks may be such
    are_thoughts: bool = False

    def write(self, tasks: Sequence[Task], decoding: Decoding) -> Iterator[list[Written]]:
        """Yield places of calls with their responses, a batch of questions at a time."""
        params = SamplingParams(
            max_new_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            stop=decoding.stop,
        )
        rows, copies = [task.row for task in tasks], [len(task.places) for task in tasks]
        for state, order in self.runner.states(rows, copies, params.max_new_tokens):
            group = [tasks[n] for n in order]
            yield self._answers(self._generate(state, group, params), group, params)

    def _generate(
        self, state: GenerationState, tasks: Sequence[Task], params: SamplingParams
    ) -> Generated:
        owners = [task for task in tasks for _ in task.places]
        return generate_tokens(
            state,
            torch.tensor([task.row.ids[-1] for task in owners], device=self.model.device),
            params,
            [seed for task in tasks for seed in task.seeds],
            self.model.info.stop_token_ids,
            limits=[min(params.max_new_tokens, self.limit - len(t.row.ids)) for t in owners],
            stop=StopStrings(params.stop, self._decode) if params.stop else None,
        )

    def _answers(
        self, found: Generated, tasks: Sequence[Task], params: SamplingParams
    ) -> list[Written]:
        owners = [(task.row, place) for task in tasks for place in task.places]
        answers = []
        for (row, place), tokens, finished, failed in zip(owners, *found[:3], strict=True):
            text, stopped = ("", False) if failed else self._text(row.ids[-1], tokens, params.stop)
            is_cut = self.are_thoughts and not stopped
            reply = Response(
                text=text,
                finished=finished and not is_cut,
                read=row.size,
                written=len(tokens),
                failure="nonfinite" if failed else UNCLOSED if is_cut else None,
            )
            answers.append((place, reply))
        return answers

    def _text(self, last: int, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Return what was written after the question's last token up to a stop, and if one is there."""
        written = [token for token in tokens if token not in self.model.info.stop_token_ids]
        # The last token of the question decides how the first one of the answer is spelled.
        before, text = self._decode([last]), self._decode([last, *written])
        text = text[len(before) :] if text.startswith(before) else self._decode(written)
        cut = before_stop(text, stop)
        return cut, cut != text

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.model.tokenizer.decode(
                list(tokens),
                skip_special_tokens=not self.are_thoughts,
                clean_up_tokenization_spaces=False,
            )
        )


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
        options = BackboneOptions(
            model,
            num_layers=num_layers,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        self.model = LocalModel(options, device)

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

    def unload(self) -> None:
        """Let the model go, until it is asked again."""
        for name in ("encoder", "runner"):
            vars(self).pop(name, None)
        self.model.unload()

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
