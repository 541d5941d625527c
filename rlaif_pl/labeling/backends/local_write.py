"""Write answers with a model on this machine: questions run once for all samples of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rlaif_pl.engine.generate import Generated, StopStrings, generate_tokens
from rlaif_pl.engine.generation_state import GenerationState
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling.backends.local_model import LocalModel
from rlaif_pl.labeling.backends.local_plain import PlainRunner
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.labeling.calls import Decoding

Runner = PrefixTreeRunner | PlainRunner


class Task(NamedTuple):
    """Answers to write to one question."""

    row: Row
    places: list[int]  # of the calls, one a sample
    seeds: list[int]  # of the noise, one a sample


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        place: Place of its call.
        tokens: As they were drawn.
        text: Without what ended it.
        finished: Whether it ended by itself.
        failed: Whether a logit was NaN.
        stopped: Whether a stop string ended it.
    """

    place: int
    tokens: list[int]
    text: str
    finished: bool
    failed: bool
    stopped: bool = False


class Writer:
    """Writes answers batch by batch.

    Args:
        runner: Runs the questions.
        model: Model that writes.
        limit: Longest text in tokens, the answer included.
        keeps_marks: Whether control tokens stay in texts, as marks of thoughts may be such.
    """

    def __init__(
        self, runner: Runner, model: LocalModel, limit: int, keeps_marks: bool = False
    ) -> None:
        self.keeps_marks = keeps_marks
        self.runner = runner
        self.model = model
        self.limit = limit

    def write(self, tasks: Sequence[Task], decoding: Decoding) -> Iterator[list[Answer]]:
        """Yield finished answers, a batch of questions at a time."""
        params = SamplingParams(
            max_new_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            stop=decoding.stop,
        )
        for state, order in self._states(tasks, params):
            group = [tasks[n] for n in order]
            yield self._answers(self._generate(state, group, params), group, params)

    def _states(
        self, tasks: Sequence[Task], params: SamplingParams
    ) -> Iterator[tuple[GenerationState, list[int]]]:
        copies = [len(task.places) for task in tasks]
        if isinstance(self.runner, PlainRunner):
            rows = [task.row for task in tasks]
            yield from self.runner.states(rows, copies, params.max_new_tokens)
            return
        prompts = [task.row.ids for task in tasks]
        yield from self.runner.states(prompts, copies, params.max_new_tokens)

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
            vocabulary=self.model.info,
        )

    def _answers(
        self, found: Generated, tasks: Sequence[Task], params: SamplingParams
    ) -> list[Answer]:
        owners = [(task.row.ids[-1], place) for task in tasks for place in task.places]
        answers = []
        for (last, place), tokens, finished, failed in zip(owners, *found[:3], strict=True):
            text, stopped = ("", False) if failed else self._text(last, tokens, params.stop)
            answers.append(Answer(place, tokens, text, finished, failed, stopped))
        return answers

    def _text(self, last: int, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Return what was written after the question's last token up to a stop, and if one is there."""
        written = [token for token in tokens if token not in self.model.info.stop_token_ids]
        # The last token of the question decides how the first one of the answer is spelled.
        before, text = self._decode([last]), self._decode([last, *written])
        text = text[len(before) :] if text.startswith(before) else self._decode(written)
        places = [place for string in stop if (place := text.find(string)) >= 0]
        return text[: min(places, default=None)], bool(places)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.model.tokenizer.decode(
                list(tokens),
                skip_special_tokens=not self.keeps_marks,
                clean_up_tokenization_spaces=False,
            )
        )
