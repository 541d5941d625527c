"""Scored samples of ReST on disk: appended while they are drawn, read back after a kill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from rlaif_pl.data.disk import replace_end
from rlaif_pl.data.files import read_rows, write_lines
from rlaif_pl.data.records import decode_fields
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.errors import at_least
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.rl.function_reward import as_scores
from rlaif_pl.rl.generate import DrawingOptions, generate, serving
from rlaif_pl.rl.reward_columns import columns_of, name_of, score_with
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
        sizes = {"batch_size": self.batch_size, "chunk": self.chunk}
        return {"sampling": asdict(self.sampling), "generator": drawn_by, **sizes}


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

    Noise depends on seed, prompt and a sample's number alone: one that was killed resumes to the same.
    """
    rows, count = read_samples(path), drawing.sampling.n
    counts = Counter((row.group, row.prompt) for row in rows)
    known = [row for row in rows if counts[row.group, row.prompt] == count]
    if len(known) < len(rows):  # a kill left a part of a prompt's samples
        write_lines(path, map(_line, known))
    missing = [prompt for prompt in prompts if counts[prompt.group, prompt.text] != count]
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
            asked = [prompt for prompt in part for _ in range(count)]
            texts, cut = list(chain(*responses.texts)), list(chain(*responses.unfinished))
            drawn_by = policy.fingerprint
            known += _append_scored(path, asked, texts, reward, drawn_by, grow, seed, cut, count)
    return known


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
    return _append_scored(path, rows, texts, reward, DEMONSTRATION, 0, seed)


def demonstration(row: ScoredResponse, prompt: str) -> Prompt:
    """Return a response as ``SFTModule`` reads it; ``prompt`` is its prompt, with any turns."""
    mark = {} if row.is_finished else {"is_finished": False}
    return Prompt(prompt, row.group, row.response, mark)


def _append_scored(
    path: Path,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    reward: Reward,
    policy: str,
    grow: int,
    seed: int,
    is_cut: Sequence[bool] | None = None,
    count: int = 1,
) -> list[ScoredResponse]:
    """Score responses, ``count`` to a prompt behind each other, and write them; all must be finite."""
    asked = [prompt.text for prompt in prompts]
    rows: list[ScoredResponse] = []
    scores = score_with(reward, asked, texts, columns_of(prompts)) if texts else []
    as_scores(scores, len(texts), name_of(reward))  # refuses what is no reward of each
    for n, (prompt, text, score) in enumerate(zip(prompts, texts, scores, strict=True)):
        value, finished = float(score), not (is_cut and is_cut[n])
        place = grow, n % count, policy, seed, finished
        rows.append(ScoredResponse(prompt.text, prompt.group, text, value, *place))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    replace_end(path, "".join(_line(row) + "\n" for row in rows).encode(), sync=True)
    return rows


def read_samples(path: Path) -> list[ScoredResponse]:
    """Read the rows whose line has its end; there are none where there is no file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)  # a kill left a part of a line
    return [decode_fields(ScoredResponse, row.fields, row.where) for row in read_rows(path)]


def _line(row: ScoredResponse) -> str:
    return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False)
