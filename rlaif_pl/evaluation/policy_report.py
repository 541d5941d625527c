"""Samples of a policy before and after training, and the record of what was measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.evaluation.pairs import JudgedPair, Verdict, comparison_key, side, write_verdicts
from rlaif_pl.evaluation.samples import write_samples
from rlaif_pl.evaluation.win_rate import WinRate
from rlaif_pl.statistics import Interval
from rlaif_pl.tables import Column, Page, Table
from rlaif_pl.text import strip_surplus_symbols
from rlaif_pl.types import Prompt

Texts = Sequence[Sequence[str]]

GREEDY = "greedy"  # of metrics and columns: each policy's likeliest response
# Judge by what a win rate's name has after the two policies.
JUDGES = {"": "labeler", "independent": "embedding", "rouge": "rouge_l"}


@dataclass(frozen=True, slots=True)
class PolicySamples:
    """Responses of the policy before (SFT) and after reinforcement learning to the same prompts."""

    prompts: Sequence[Prompt]  # prompts, with references where there are any. `P`
    sft: Texts  # responses of the SFT policy. `P` lists
    policy: Texts  # responses of the trained policy. `P` lists
    # true where a response met the length limit; None where not recorded
    sft_unfinished: Sequence[Sequence[bool]] | None = None
    policy_unfinished: Sequence[Sequence[bool]] | None = None  # the same for the trained policy
    # KL from the SFT policy in nats a response, mean over each prompt's responses; None where not
    # measured. `P`
    kl: Sequence[float] | None = None

    def __post_init__(self) -> None:
        parts = (self.sft, self.policy, self.sft_unfinished, self.policy_unfinished, self.kl)
        sizes = [len(part) for part in parts if part is not None]
        if not self.prompts or set(sizes) != {len(self.prompts)}:
            raise ValueError(
                f"expected one entry per prompt in every field, got {len(self.prompts)} prompts "
                f"and fields of {sizes}"
            )
        if not all(self.sft) or not all(self.policy):
            raise ValueError("expected at least one response of both to every prompt, got none")


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """A policy beside the SFT policy it came from."""

    samples: PolicySamples  # what was measured
    reward_sft: Sequence[Sequence[float]]  # reward of each SFT response. `P` lists
    reward_policy: Sequence[Sequence[float]]  # reward of each response of the policy. `P` lists
    # intervals by metric name: rewards, their paired gain, KL, length ratio, copied 4-grams, ROUGE-L,
    # unfinished shares
    quantities: Mapping[str, Interval]
    win_rates: Mapping[str, WinRate]  # win rates by name, the training labeler's first
    # the same of each policy's likeliest response; None where that was not measured
    greedy: PolicyReport | None = None

    def to_metrics(self) -> dict[str, float]:
        """Return flat numbers ``a2c/...``, ``sft/...``, ``winrate/...`` and ``greedy/...``."""
        metrics: dict[str, float] = {"a2c/n": len(self.samples.prompts)}
        for name, interval in self.quantities.items():
            metrics |= interval.to_metrics(name)
        for name, rate in self.win_rates.items():
            metrics |= rate.to_metrics(name)
        if self.greedy is not None:
            metrics |= {f"{GREEDY}/{name}": x for name, x in self.greedy.to_metrics().items()}
        return metrics

    def render(self, console: Console, decoding: str = "") -> None:
        """Print the report as two tables, and two more of the likeliest responses."""
        means = Table(
            f"Policy on held-out prompts{decoding}",
            ["measure", Column("mean [interval]", ".3f")],
            list(self.quantities.items()),
        )
        wins = Table(
            f"Win rates{decoding}",
            ["comparison", "wins [interval]", "at equal length", Column("judge", align="left")],
            [
                [name, rate.raw.percent(), rate.length_controlled.percent(), rate.judge]
                for name, rate in self.win_rates.items()
            ],
        )
        Page([means, wins]).render(console)
        if self.greedy is not None:
            self.greedy.render(console, f", {GREEDY}")

    def write(self, folder: Path | str, *, show_text: bool = True) -> None:
        """Write ``samples.jsonl`` and ``win_rates.json`` for the report, and ``verdicts.jsonl``."""
        write_samples(folder, self._rows(), show_text=show_text)
        write_json(
            Path(folder) / "win_rates.json",
            [
                {"name": name, "judge": rate.judge, **asdict(rate.raw)}
                for name, rate in self.win_rates.items()
            ],
        )
        write_verdicts(folder, self._judged())

    def _judged(self) -> Iterator[JudgedPair]:
        for name, rate in self.win_rates.items():
            sides, _, ending = name.partition("_vs_")
            other, _, kind = ending.partition("_")
            judge = JUDGES[kind]
            yield JudgedPair(judge, sides, other, rate.verdicts, ["policy"] * (judge == "labeler"))
        yield JudgedPair("reward", "policy", "sft", self._reward_verdicts(), ["policy"])

    def _reward_verdicts(self) -> list[Verdict]:
        """Compare rewards, each response of the policy with each of SFT's to the same prompt."""
        found = []
        sides = (self.samples.policy, self.reward_policy), (self.samples.sft, self.reward_sft)
        for n, prompt in enumerate(self.samples.prompts):
            both = (zip(texts[n], rewards[n], strict=True) for texts, rewards in sides)
            for (a, paid_a), (b, paid_b) in product(*both):
                first, second = strip_surplus_symbols(a), strip_surplus_symbols(b)
                if first != second:
                    key = comparison_key(prompt.text, first, second)
                    found.append(Verdict(key, float(side(np.array(paid_a - paid_b)))))
        return found

    def _rows(self) -> Iterator[dict[str, object]]:
        samples, greedy = self.samples, None if self.greedy is None else self.greedy.samples
        for n, prompt in enumerate(samples.prompts):
            row: dict[str, object] = {
                "prompt": prompt.text,
                "group": prompt.group,
                "reference": prompt.reference,
                "sft": list(samples.sft[n]),
                "policy": list(samples.policy[n]),
                "reward_sft": list(self.reward_sft[n]),
                "reward_policy": list(self.reward_policy[n]),
            }
            if greedy is not None:
                row |= {f"sft_{GREEDY}": greedy.sft[n][0], f"policy_{GREEDY}": greedy.policy[n][0]}
            yield row
