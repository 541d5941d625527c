"""Back end on a transformers model of this machine; questions run once for all samples of each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import torch

from rlaif_pl.engine.generate import generate_tokens
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, before_stop, sample_seed
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.errors import at_least
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
TextRequest = GenerateRequest | ThinkRequest
Done = Callable[[int, Response], None]


class Writing(NamedTuple):
    """How texts are written."""

    decoding: Decoding
    # texts that a stop string must end; control tokens stay in them, as their marks may be such
    are_thoughts: bool = False


class LocalBackend:
    """Answers calls with a frozen language model, loaded on first use.

    What texts begin with in common is computed once (the preamble and exemplars of a job, the post of a
    pair's two orders, the question of several samples), and logits only where they are needed. A
    self-test notices models that cannot be read like that; they are read the plain way, with a warning.

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
        at_least(1, batch_tokens=batch_tokens, max_tokens=max_tokens)
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
        stops, start = model.info.stop_token_ids, model.decoder_start
        return Encoder(model.tokenizer, self.limit, start, stops)

    @cached_property
    def runner(self) -> Runner:
        """The engine's way to run texts, or the plain one for models that it does not reproduce."""
        why: str | None = "it is an encoder-decoder"
        if not self.model.is_encoder_decoder:
            try:
                self.model.unembedding  # noqa: B018 - found out on first use
            except ValueError as error:
                why = str(error)
            else:
                can = self.model.top.capabilities
                why = None if can.packs and can.decodes else str(can.reason)
        if why is None:
            return PrefixTreeRunner(self.model, self.batch_tokens)
        warnings.warn(
            f"{self.model.name} is run the plain way, in padded batches without caches: {why}",
            stacklevel=2,
        )
        return PlainRunner(self.model, self.batch_tokens)

    def unload(self) -> None:
        """Let the model go, until it is asked again."""
        for name in ("encoder", "runner"):
            vars(self).pop(name, None)
        self.model.unload()

    def answer(self, calls: Sequence[Call], done: Done) -> None:
        """Answer calls; see ``calls.Backend``."""
        rows: list[Row] = []
        spans: dict[int, range] = {}
        texts: dict[Writing, dict[Row, list[tuple[int, TextRequest]]]] = {}
        for place, call in enumerate(calls):
            try:
                if isinstance(call, GenerateRequest):
                    how, row = Writing(call.decoding), self.encoder.question(call.question)
                elif isinstance(call, ThinkRequest):
                    row, closing = self.encoder.thinking(call.question)
                    how = Writing(replace(call.decoding, stop=(closing,)), are_thoughts=True)
                else:
                    own = self.encoder.rows(call)
                    spans[place] = range(len(rows), len(rows) + len(own))
                    rows += own
                    continue
                texts.setdefault(how, {}).setdefault(row, []).append((place, call))
            except UnreadableError as failure:
                done(place, Response(failure=str(failure)))
        with own_precision(self.model.device.type):
            if rows:
                self._judge(calls, rows, spans, done)
            for how, samples in texts.items():
                for answers, seconds in timed(self._written(samples, how)):
                    for place, reply in answers:
                        done(place, replace(reply, seconds=seconds / len(answers)))

    def _judge(
        self, calls: Sequence[Call], rows: Sequence[Row], spans: dict[int, range], done: Done
    ) -> None:
        """Answer what needs log-probabilities; a call is done when all its rows are."""
        owners = [place for place, span in spans.items() for _ in span]
        known: dict[int, list[float]] = {}
        for found, seconds in timed(self.runner.score(rows)):
            known |= found
            places = dict.fromkeys(owners[n] for n, _ in found)
            ready = [place for place in places if all(n in known for n in spans[place])]
            for place in ready:
                own = [rows[n] for n in spans[place]]
                values = [known.pop(n) for n in spans[place]]
                done(place, judged(calls[place], own, values, seconds / len(ready)))

    def _written(
        self, samples: dict[Row, list[tuple[int, TextRequest]]], how: Writing
    ) -> Iterator[list[tuple[int, Response]]]:
        """Yield places of calls with their responses, a batch of questions at a time."""
        decoding, decode, model = how.decoding, partial(self._decode, how), self.model
        params = SamplingParams(
            max_new_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            stop=decoding.stop,
        )
        rows, copies, most = list(samples), list(map(len, samples.values())), decoding.max_tokens
        for state, order in self.runner.states(rows, copies, most):
            owners = [(rows[n], *sample) for n in order for sample in samples[rows[n]]]
            found = generate_tokens(
                state,
                torch.tensor([row.ids[-1] for row, *_ in owners], device=model.device),
                params,
                [seed_of(call) for *_, call in owners],
                model.info.stop_token_ids,
                limits=[min(most, self.limit - len(row.ids)) for row, *_ in owners],
                stop=StopStrings(params.stop, decode) if params.stop else None,
            )
            drawn = zip(owners, found.tokens, found.finished, found.failed, strict=True)
            yield [
                (place, self._reply(row, how, tokens, finished, failed))
                for (row, place, _), tokens, finished, failed in drawn
            ]

    def _reply(
        self, row: Row, how: Writing, tokens: Sequence[int], finished: bool, failed: bool
    ) -> Response:
        """Make the response to a request for text of what was written, up to a stop."""
        decode = partial(self._decode, how)
        written = [token for token in tokens if token not in self.model.info.stop_token_ids]
        # The last token of the question decides how the first one of the answer is spelled.
        before, text = decode(row.ids[-1:]), decode([row.ids[-1], *written])
        text = text[len(before) :] if text.startswith(before) else decode(written)
        cut = "" if failed else before_stop(text, how.decoding.stop)
        is_open = how.are_thoughts and (failed or cut == text)
        return Response(
            text=cut,
            finished=finished and not is_open,
            read=row.size,
            written=len(tokens),
            failure="nonfinite" if failed else UNCLOSED if is_open else None,
        )

    def _decode(self, how: Writing, tokens: Sequence[int]) -> str:
        skip = not how.are_thoughts
        decode = self.model.tokenizer.decode
        return str(
            decode(list(tokens), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        )


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


def seed_of(call: TextRequest) -> int:
    """Seed of a sample's noise, whichever batch or process draws it."""
    q = call.question
    return sample_seed(call.decoding.seed, q.text, q.assistant_prefix, int(q.chat), call.sample)


def timed(batches: Iterator[list]) -> Iterator[tuple[list, float]]:
    """Yield batches with the seconds each took."""
    began = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - began
        began = time.monotonic()
