"""Pairs labeled by rankings: all responses to a prompt in one call, in shuffled positions."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlaif_pl.labeling.calls import Ask, Backend, Decoding, GenerateRequest, Question, Response
from rlaif_pl.labeling.outcome import Judgment, spent_on
from rlaif_pl.labeling.prompting.templates import BLANK, SEVERAL, load_prompt
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

NAME = re.compile(r"\[(\d+)\]")  # as the question shows them
NUMBER = re.compile(r"\d+")
# Numbers that name no response: those of a list's lines ("1. Response 2"), and a count of responses
# before the first name ("the 3 responses: 2, 1, 3").
IN_LIST = re.compile(r"^\s*\d+[.)][ \t]+(?=.*\d)", re.MULTILINE)
COUNT = re.compile(
    r"\A(?:\D*\d+(?= (?:\w+ )?(?:responses|answers|options|candidates|texts)\b))+", re.IGNORECASE
)
# What says another order than the best first, before the names ("from worst to best"), and between two
# of them, or that two are alike.
WORST_FIRST = re.compile(  # not "best to worst, according to"
    r"(?<!to )(?<!to the )\b(?:worst|weakest|least)\b[\w\s,]{0,20}\b(?:to|first)\b", re.IGNORECASE
)
OTHERWISE = re.compile(
    r"<(?![/\w])|(?<![-=<>])=(?!>)|\u2248|\u227a|\b(?:worst|worse|weakest|least|tie[ds]?|equal(?:ly)?)\b",
    re.IGNORECASE,
)
RULES = "ranking-5"  # raise when ranking_of reads some answer differently


@dataclass(slots=True)
class ResponseList:
    """Responses to one prompt that are ranked together."""

    prompt: str  # what they reply to
    # different texts, sorted, so that no order of pairs makes a difference
    responses: list[str] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)  # places of the pairs that are labeled by it


class ListwiseLabeler(ModelLabeler):
    """Has the responses to a prompt ranked and labels its pairs by who stands ahead.

    ``p_first`` is the share of rankings with the first response ahead. A ranking that does not name
    every response once is ``malformed``. Pairs of one prompt are ranked together as far as they are
    labeled in one chunk, so keep ``chunk`` of the command unchanged where a job is to be repeated.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        prompt: Name or path of a prompt file whose sample has ``{prompt}`` and ``{responses}``.
        max_responses: Most responses in a list, at least 2; further pairs get further lists.
        shuffles: Rankings a list, at least 1; every second one is the reverse of the one before, since
            judges favor places. A pair is labeled where more than half of them came about.
        seed: Seeds the shuffling.
        max_answer_tokens: Length limit of a ranking, at least 1.
        chat_template: Ask through the model's chat template; the ending opens the answer.
    """

    strategy = "listwise"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        prompt: str = "listwise-1",
        max_responses: int = 8,
        shuffles: int = 2,
        seed: int = 0,
        max_answer_tokens: int = 64,
        chat_template: bool = False,
    ) -> None:
        super().__init__(backend, 1.0, chat=chat_template)
        if max_responses < 2 or shuffles < 1 or max_answer_tokens < 1:
            raise ValueError(
                "expected max_responses of at least 2, shuffles and max_answer_tokens of at least 1, "
                f"got {max_responses}, {shuffles} and {max_answer_tokens}"
            )
        self.file = load_prompt(prompt, SEVERAL)
        self.max_responses, self.shuffles, self.seed = max_responses, shuffles, seed
        self.decoding = Decoding(max_answer_tokens, stop=("\n\n",))

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        lists = f"k={self.max_responses},n={self.shuffles},seed={self.seed}"
        asked = f"{self.file.version}+{RULES}+{lists},max={self.decoding.max_tokens}"
        return asked + "+chat" * self.chat

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by the rankings of their lists."""
        lists = [(each, self._orders(each)) for each in lists_of(pairs, self.max_responses)]
        questions = [self._question(each.prompt, order) for each, own in lists for order in own]
        replies = iter(ask([GenerateRequest(question, self.decoding) for question in questions]))
        found: dict[int, Judgment] = {}
        for each, own in lists:
            found |= _judgments(each, pairs, [(order, next(replies)) for order in own])
        return [found[place] for place in range(len(pairs))]

    def _orders(self, each: ResponseList) -> list[list[str]]:
        drawn = random.Random(repr((self.seed, each.prompt, each.responses)))
        orders: list[list[str]] = []
        while len(orders) < self.shuffles:
            order = drawn.sample(each.responses, len(each.responses))
            orders += [order, order[::-1]]
        return orders[: self.shuffles]

    def _question(self, prompt: str, responses: Sequence[str]) -> Question:
        listed = BLANK.join(f"[{n}] {text.strip()}" for n, text in enumerate(responses, 1))
        sample = self.file.filled("sample", prompt=prompt, responses=listed)
        return self.file.question(self.chat, sample)


def lists_of(pairs: Sequence[Preference], most: int) -> list[ResponseList]:
    """Put pairs of one prompt into common lists of at most so many different responses."""
    lists: list[ResponseList] = []
    current: dict[str, ResponseList] = {}
    for place, pair in enumerate(pairs):
        here = current.get(pair.prompt)
        both = {pair.first, pair.second}
        if here is None or len(both.union(here.responses)) > most:
            here = current[pair.prompt] = ResponseList(pair.prompt)
            lists.append(here)
        here.responses = sorted(both.union(here.responses))
        here.pairs.append(place)
    return lists


def ranking_of(text: str, count: int) -> list[int] | None:
    """Read ``[2] > [1]``, or bare numbers, as places from 0, best first; None if it is no ranking.

    None too where words or signs up to its last name say another order, or a tie.
    """
    found = list(NAME.finditer(text))
    if len(found) < count:
        named, lines = IN_LIST.subn("", text)
        text = COUNT.sub("", named if lines > 1 else text)
        found = list(NUMBER.finditer(text))
    found = found[:count]
    if found and _is_otherwise(text, found[0].start(), found[-1].start()):
        return None
    numbers = [int(each[each.lastindex or 0]) for each in found]
    return [n - 1 for n in numbers] if sorted(numbers) == list(range(1, count + 1)) else None


def _is_otherwise(text: str, first: int, last: int) -> bool:
    """Tell whether a text says that its names, which begin at these places, are no ranking."""
    told = WORST_FIRST.search(text, 0, first) or OTHERWISE.search(text, first, last)
    return told is not None


def _judgments(
    each: ResponseList, pairs: Sequence[Preference], answers: Sequence[tuple[list[str], Response]]
) -> dict[int, Judgment]:
    """Label the pairs of a list by its rankings; each pays its share of them."""
    spent = spent_on(reply for _, reply in answers)
    ranks: list[dict[str, int]] = []
    failures: list[str] = []
    for order, reply in answers:
        ranking = None if reply.failure else ranking_of(reply.text, len(order))
        if ranking is None:
            failures.append(reply.failure or "malformed")
        else:
            ranks.append({order[place]: rank for rank, place in enumerate(ranking)})
    found: dict[int, Judgment] = {}
    share, is_known = len(each.pairs), len(ranks) > len(failures)
    for number, place in enumerate(each.pairs):
        pair = pairs[place]
        places = [(rank[pair.first], rank[pair.second]) for rank in ranks]
        ahead = [0.5 if a == b else float(a < b) for a, b in places]  # 0.5: a text beside itself
        found[place] = Judgment(
            math.nan,
            tokens=spent["tokens"] // share + (number < spent["tokens"] % share),
            written=spent["written"] // share + (number < spent["written"] % share),
            cost_usd=spent["cost_usd"] / share,
            position_gap=max(ahead) - min(ahead) if is_known else None,
            p_first=math.fsum(ahead) / len(ahead) if is_known else None,
            failure=None if is_known else min(failures),
        )
    return found
