"""Scored samples of ReST on disk: appended while they are drawn, read back after a kill."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows, write_lines
from rlaif_pl.data.records import decode_fields
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.errors import at_least
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.rl.generate import DrawingOptions, Responses, generate, serving
from rlaif_pl.rl.reward_columns import columns_of, score_with
from rlaif_pl.types import Prompt, Reward

DEMONSTRATION = "demonstration"  # stands for the policy where a person wrote the response


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """One response with its reward and where it came from."""

    prompt: str  # what it responds to
    group: str  # identity of the prompt
    response: str  # the response
    reward: float  # its reward, in the units of the reward given
    grow: int  # grow step that drew it, from 1; 0 for a demonstration
    sample: int  # its number among the prompt's samples of that step, from 0
    policy: str  # fingerprint of the policy that wrote it, or `demonstration`
    seed: int  # seed of the step's noise
    is_finished: bool = True  # false where the length limit cut it


@dataclass(frozen=True)
class Drawing(DrawingOptions):
    """How samples are drawn; servers are sent all weights of each policy.

    Attributes:
        sampling: How, ``n`` times a prompt.
        chunk: Prompts between two writes to the file, at least 1; a kill loses no more than these.
    """

    sampling: SamplingParams = SamplingParams(n=4, temperature=0.8)
    chunk: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, chunk=self.chunk)

    @property
    def identity(self) -> dict[str, object]:
        """What samples depend on, beside policy and seed: servers draw others than this process."""
        drawn_by = None if self.generator is None else type(self.generator).__name__
        return {
            "sampling": asdict(self.sampling),
            "batch_size": self.batch_size,
            "chunk": self.chunk,
            "generator": drawn_by,
        }


def draw_samples(
    path: Path,
    policy: CausalModel,
    reward: Reward,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    *,
    grow: int,
    seed: int,
) -> list[ScoredResponse]:
    """Draw and score what the file lacks, append it, and return all of it.

    The noise of a sample depends on seed, prompt and its number alone, so a drawing that was killed
    and resumed gives the samples of an unbroken one.
    """
    known = whole_prompts(path, drawing.sampling.n)
    found = {(row.group, row.prompt) for row in known}
    missing = [prompt for prompt in prompts if (prompt.group, prompt.text) not in found]
    if not missing:
        return known
    params = drawing.sampling.seeded(seed)
    with serving(policy, params, drawing.generator, send_whole=True) as draw:
        for start in range(0, len(missing), drawing.chunk):
            part = missing[start : start + drawing.chunk]
            title = f"sampling {start + 1}-{start + len(part)} of {len(missing)} prompts"
            responses = generate(
                policy, part, params, batch_size=drawing.batch_size, title=title, draw=draw
            )
            rows = _scored(part, responses, policy.fingerprint, reward, grow, seed)
            append_samples(path, rows)
            known += rows
    return known


def _scored(
    prompts: Sequence[Prompt],
    responses: Responses,
    policy: str,
    reward: Reward,
    grow: int,
    seed: int,
) -> list[ScoredResponse]:
    texts = [text for own in responses.texts for text in own]
    asked = [p for p, own in zip(prompts, responses.texts, strict=True) for _ in own]
    rewards = iter(score_all(reward, asked, texts))
    return [
        ScoredResponse(
            prompt=prompt.text,
            group=prompt.group,
            response=text,
            reward=next(rewards),
            grow=grow,
            sample=number,
            policy=policy,
            seed=seed,
            is_finished=not unfinished,
        )
        for prompt, own, cut in zip(prompts, responses.texts, responses.unfinished, strict=True)
        for number, (text, unfinished) in enumerate(zip(own, cut, strict=True))
    ]


def score_demonstrations(
    path: Path, reward: Reward, demonstrations: Sequence[Prompt], seed: int
) -> list[ScoredResponse]:
    """Score the references of prompts that have one and write them; what is written is read."""
    rows = [prompt for prompt in demonstrations if prompt.reference]
    known = read_samples(path)
    if len(known) == len(rows):
        return known
    path.unlink(missing_ok=True)
    texts = [str(row.reference) for row in rows]
    rewards = score_all(reward, rows, texts)
    scored = [
        ScoredResponse(row.text, row.group, text, value, 0, 0, DEMONSTRATION, seed)
        for row, text, value in zip(rows, texts, rewards, strict=True)
    ]
    append_samples(path, scored)
    return scored


def score_all(reward: Reward, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """Return the rewards of responses, if there are any; ValueError for one that is not finite."""
    if not responses:
        return []
    texts = [prompt.text for prompt in prompts]
    values = [float(v) for v in score_with(reward, texts, responses, columns_of(prompts))]
    for value, response in zip(values, responses, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite reward, got {value} for {response[:60]!r}")
    return values


def append_samples(path: Path, rows: Iterable[ScoredResponse]) -> None:
    """Append rows and wait until they are on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(_line(row) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_samples(path: Path) -> list[ScoredResponse]:
    """Read the rows whose line has its end; there are none where there is no file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)  # a kill left a part of a line
    return [decode_fields(ScoredResponse, row.fields, row.where) for row in read_rows(path)]


def whole_prompts(path: Path, num_generations: int) -> list[ScoredResponse]:
    """Read the prompts that have all their samples; a kill may have left others, which are dropped."""
    rows = read_samples(path)
    counts = Counter((row.group, row.prompt) for row in rows)
    kept = [row for row in rows if counts[row.group, row.prompt] == num_generations]
    if len(kept) < len(rows):
        write_lines(path, map(_line, kept))
    return kept


def _line(row: ScoredResponse) -> str:
    return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False)
