"""Write answers with a model on this machine: questions run once for all samples of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rlaif_pl.engine.generate import Generated, generate_tokens
from rlaif_pl.engine.generation_state import GenerationState
from rlaif_pl.engine.sampling import SamplingParams, StopStrings
from rlaif_pl.engine.tree_runner import PrefixTreeRunner
from rlaif_pl.labeling.backends.local_model import LocalModel, PlainRunner
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.labeling.calls import Decoding, Response
from rlaif_pl.labeling.prompting.thoughts import UNCLOSED

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
        places = [place for string in stop if (place := text.find(string)) >= 0]
        return text[: min(places, default=None)], bool(places)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.model.tokenizer.decode(
                list(tokens),
                skip_special_tokens=not self.are_thoughts,
                clean_up_tokenization_spaces=False,
            )
        )
