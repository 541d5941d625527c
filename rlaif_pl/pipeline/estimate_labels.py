"""What labels cost: requests and tokens of a strategy, money, and a server's time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlaif_pl.pipeline.yaml_files import Value

CHARACTERS_PER_TOKEN = 4.0
RATIONALE_TOKENS = 61  # arXiv 2309.00267, appendix L: mean with the detailed preamble
MILLION = 1_000_000
PROMPTS = Path(__file__).parent.parent / "labeling" / "prompts"
PAIRWISE = ("PairwiseLabeler", "ConstitutionLabeler", "FreeFormLabeler")
THOUGHT_TOKENS = 2048  # budget of thoughts where none is set
CRITERIA = 5  # of a rubric whose file cannot be read yet
RUBRIC_TOKENS = 75  # what a rubric's question says besides prompt and response
POINTWISE = ("ScoreLabeler", "LikelihoodLabeler")


@dataclass(frozen=True, slots=True)
class LabelCost:
    """What a number of comparisons takes.

    Attributes:
        requests: Questions to the model.
        read: Tokens read.
        written: Tokens written.
        usd: At the config's prices; None where there are none.
    """

    requests: float
    read: float
    written: float
    usd: float | None = None

    def priced(self, read: float, written: float) -> LabelCost:
        """Return it at prices in USD per million tokens."""
        usd = (self.read * read + self.written * written) / MILLION
        return LabelCost(self.requests, self.read, self.written, usd)


def _rubric_cost(options: Mapping[str, Value], pairs: float, sample: float) -> LabelCost:
    """Count a request a criterion of each response; of prompts' own criteria nothing is known."""
    name = str(options.get("criteria") or f"criteria-{options.get('task', 'summarization')}-1")
    packaged = PROMPTS / f"{name}.yaml"
    path = packaged if packaged.is_file() else Path(name).expanduser()
    try:
        count = len(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, UnicodeDecodeError, yaml.YAMLError):
        count = CRITERIA
    requests = 2 * pairs * count
    return LabelCost(requests, requests * (RUBRIC_TOKENS + sample), requests)


def label_cost(
    kind: str,
    options: Mapping[str, Value],
    pairs: float,
    prompt: float,
    response: float,
    rationale: float = RATIONALE_TOKENS,
) -> LabelCost | None:
    """Count requests and tokens of labeling; None for a labeler that is not known here.

    A pairwise question is asked in both orders; with a chain of thought each order takes a request
    that writes the rationale and one that reads it: 4 requests a pair, ``4 n`` with ``n`` samples.
    Pointwise labelers read each response once.

    Args:
        kind: Class of the labeler, or its short name.
        options: Its ``init_args``.
        pairs: Comparisons.
        prompt: Mean tokens of a prompt.
        response: Mean tokens of a response.
        rationale: Mean tokens of a written rationale.
    """
    cost = _plain_cost(kind, options, pairs, prompt, response, rationale)
    thinking = options.get("thinking")
    if cost is None or not isinstance(thinking, Mapping):
        return cost
    thoughts = cost.requests * _number(thinking.get("max_tokens"), THOUGHT_TOKENS)
    # each question is read twice, the second time with its thoughts, which take their whole budget
    return LabelCost(2 * cost.requests, 2 * cost.read + thoughts, cost.written + thoughts)


def _plain_cost(
    kind: str,
    options: Mapping[str, Value],
    pairs: float,
    prompt: float,
    response: float,
    rationale: float,
) -> LabelCost | None:
    """Count requests and tokens of labeling without thoughts; see ``label_cost``."""
    name = kind.rsplit(".", 1)[-1]
    name = {"pairwise": "PairwiseLabeler", "likelihood": "LikelihoodLabeler"}.get(name, name)
    if name == "RubricLabeler":
        return _rubric_cost(options, pairs, prompt + response)
    if name in POINTWISE:
        fixed = instruction_tokens("ScoreLabeler", options) if name == "ScoreLabeler" else 20
        requests = 2 * pairs
        written = requests if name == "ScoreLabeler" else 0.0
        return LabelCost(requests, requests * (fixed + prompt + response), written)
    if name not in PAIRWISE:
        return None
    question = instruction_tokens(name, options) + prompt + 2 * response
    if name == "FreeFormLabeler":
        answer = min(float(_number(options.get("max_answer_tokens"), 64)), 64.0)
        return LabelCost(2 * pairs, 2 * pairs * question, 2 * pairs * answer)
    if not options.get("cot"):
        return LabelCost(2 * pairs, 2 * pairs * question, 2 * pairs)
    rationale = min(rationale, _number(options.get("max_rationale_tokens"), 512))
    drawn = 2 * pairs * _number(options.get("samples"), 1)
    return LabelCost(2 * drawn, drawn * (2 * question + rationale), drawn * (rationale + 1))


def instruction_tokens(name: str, options: Mapping[str, Value]) -> float:
    """Tokens of a labeling prompt without its sample: a quarter of the file's characters.

    A prompt file of the user's own is not read; the task's stands in for it.
    """
    task = str(options.get("task", "summarization"))
    preamble = str(options.get("preamble", "detailed"))
    file = {
        "PairwiseLabeler": f"{task}-{preamble}-1.txt",
        "ScoreLabeler": f"score-{task}-1.txt",
        "FreeFormLabeler": f"free_form-{task}-1.txt",
    }.get(name, "constitution-1.txt")
    path = PROMPTS / file
    size = len(path.read_text(encoding="utf-8")) if path.is_file() else 0
    shots = _number(options.get("shots"), 0)
    examples = PROMPTS / f"exemplars-{task}-1.yaml"
    if shots and examples.is_file():
        text = examples.read_text(encoding="utf-8")
        size += round(len(text) * shots / max(text.count("\n- "), 1))
    return size / CHARACTERS_PER_TOKEN


def price_in(options: Mapping[str, Value]) -> tuple[float, float] | None:
    """Prices of the labeler's back end in USD per million tokens read and written, if given."""
    backend = options.get("backend")
    inner = backend.get("init_args") if isinstance(backend, dict) else None
    prices = inner.get("prices") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(prices, dict):
        return None
    price = prices.get(str(inner.get("model")))
    if not isinstance(price, dict):
        return None
    return _number(price.get("read"), 0.0), _number(price.get("written"), 0.0)


def model_of(options: Mapping[str, Value]) -> str | None:
    """Name of the model that answers."""
    backend = options.get("backend", "smollm2-135m")
    if isinstance(backend, str):
        return backend
    inner = backend.get("init_args") if isinstance(backend, dict) else None
    model = inner.get("model") if isinstance(inner, dict) else None
    return model if isinstance(model, str) else None


def _number(value: Value, default: float) -> float:
    number = float(value) if isinstance(value, int | float) else default
    return default if math.isnan(number) else number
