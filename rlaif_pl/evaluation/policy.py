"""What reinforcement learning made of a policy: rewards, wins, lengths, copying, KL.

A pure function over texts that were sampled before: both systems answer the same prompts with the
same settings, and prompts used to choose a recipe are not the prompts that report it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.evaluation.judges import RougeJudge, rouge_l, rouge_tokens
from rlaif_pl.evaluation.pairs import (
    Array,
    JudgedPair,
    Verdict,
    comparison_key,
    side,
    write_verdicts,
)
from rlaif_pl.evaluation.reward_accuracy import scored
from rlaif_pl.evaluation.samples import GREEDY, write_samples
from rlaif_pl.evaluation.win_rate import WinRate, compare, copied_shares
from rlaif_pl.rl.reward_columns import columns_of
from rlaif_pl.statistics import Estimator, Interval, empty_interval, ratio_of_means
from rlaif_pl.tables import Column, Page, Table
from rlaif_pl.text import (
    is_repetitive,
    judge_name,
    shared_ngrams,
    strip_surplus_symbols,
    word_count,
)
from rlaif_pl.types import Labeler, Prompt, Reward

Texts = Sequence[Sequence[str]]

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
                [name, rate.raw.percent(), rate.length_controlled.percent(), judge_name(rate.judge)]
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


NO_RATIO = 1e-9  # chance of a resample without a length ratio that is taken for none


def evaluate_policy(
    samples: PolicySamples,
    reward: Reward,
    labeler: Labeler,
    independent: Labeler | None = None,
    *,
    estimator: Estimator = Estimator(),
) -> PolicyReport:
    """Measure a policy against the SFT policy and the references.

    Rewards are those of the responses as they are (what training paid for); judges read them with
    surplus symbols at the end removed. All intervals are by prompt group.

    Args:
        samples: Responses of both systems to the same prompts.
        reward: The reward the policy was trained on.
        labeler: The labeler whose labels trained the reward; ``policy_vs_sft`` is its verdict.
        independent: A judge that trained nothing here (``EmbeddingJudge``).
        estimator: How intervals are made.
    """
    groups = [prompt.group for prompt in samples.prompts]
    mean, share = estimator.mean, estimator.share
    reward_sft = _rewards(reward, samples.prompts, samples.sft)
    reward_policy = _rewards(reward, samples.prompts, samples.policy)
    before, after = _means(reward_sft), _means(reward_policy)
    quantities = {
        "a2c/reward_before": mean(before, groups),
        "a2c/reward_after": mean(after, groups),
        "a2c/reward_gain": estimator.difference(after, before, groups),
        "a2c/length_ratio": _length_ratio(samples, groups, estimator),
    }
    if samples.kl is not None:
        quantities["a2c/kl"] = mean(np.asarray(samples.kl, np.float64), groups)
    for system, texts, unfinished in (
        ("sft", samples.sft, samples.sft_unfinished),
        ("a2c", samples.policy, samples.policy_unfinished),
    ):
        measures = _text_measures(samples.prompts, texts, estimator)
        quantities |= {f"{system}/{name}": interval for name, interval in measures.items()}
        if unfinished is not None:
            quantities[f"{system}/unfinished"] = share(_means(unfinished), groups)
    rates = _win_rates(samples, labeler, independent, partial(compare, estimator=estimator))
    return PolicyReport(samples, reward_sft, reward_policy, quantities, rates)


def references_of(prompts: Sequence[Prompt]) -> dict[str, str]:
    """References by prompt text, for reference judges; of equal prompts the last counts."""
    return {prompt.text: prompt.reference for prompt in prompts if prompt.reference is not None}


def _win_rates(
    samples: PolicySamples,
    labeler: Labeler,
    independent: Labeler | None,
    compare_by: Callable[..., WinRate],
) -> dict[str, WinRate]:
    texts = [prompt.text for prompt in samples.prompts]
    groups = [prompt.group for prompt in samples.prompts]
    both = (texts, samples.policy, samples.sft)
    rates = {"policy_vs_sft": compare_by(*both, labeler, groups)}
    if independent is not None:
        rates["policy_vs_sft_independent"] = compare_by(*both, independent, groups)
    kept = [i for i, prompt in enumerate(samples.prompts) if prompt.reference is not None]
    if not kept:
        return rates
    texts, groups = [texts[i] for i in kept], [groups[i] for i in kept]
    policy, sft = [samples.policy[i] for i in kept], [samples.sft[i] for i in kept]
    references = [[samples.prompts[i].reference or ""] for i in kept]
    if any(rouge_tokens(reference) for (reference,) in references):
        rouge = RougeJudge(references_of(samples.prompts))
        rates["policy_vs_sft_rouge"] = compare_by(texts, policy, sft, rouge, groups)
    rates["policy_vs_reference"] = compare_by(texts, policy, references, labeler, groups)
    rates["sft_vs_reference"] = compare_by(texts, sft, references, labeler, groups)
    return rates


def _rewards(reward: Reward, prompts: Sequence[Prompt], responses: Texts) -> list[list[float]]:
    asked = [prompt for prompt, texts in zip(prompts, responses, strict=True) for _ in texts]
    found = scored(
        reward,
        [prompt.text for prompt in asked],
        [text for texts in responses for text in texts],
        columns_of(asked),
    )
    flat = iter(found.tolist())
    return [[next(flat) for _ in texts] for texts in responses]


def _text_measures(
    prompts: Sequence[Prompt], responses: Texts, estimator: Estimator
) -> dict[str, Interval]:
    """Words, copied and shared 4-grams, shares of empty and repetitive texts, ROUGE-L if possible."""
    clean = [[strip_surplus_symbols(text) for text in texts] for texts in responses]
    groups = [prompt.group for prompt in prompts]
    repetitive = [[is_repetitive(text) for text in texts] for texts in clean]
    mean, share = estimator.mean, estimator.share
    measures = {
        "words": mean(_words(clean), groups),
        "copied_4grams": share(copied_shares([prompt.text for prompt in prompts], clean), groups),
        "shared_4grams": share(_means(shared_ngrams(clean)), groups),
        "empty": share(_means([[not text for text in texts] for texts in clean]), groups),
        "repetitive": share(_means(repetitive), groups),
    }
    likeness = [
        (prompt.group, value)
        for prompt, texts in zip(prompts, clean, strict=True)
        if prompt.reference is not None
        and math.isfinite(value := np.mean([rouge_l(text, prompt.reference) for text in texts]))
    ]
    if likeness:
        owners, values = zip(*likeness, strict=True)
        measures["rouge_l"] = mean(np.array(values), owners)
    return measures


def _length_ratio(samples: PolicySamples, groups: Sequence[str], estimator: Estimator) -> Interval:
    """Mean words of the policy over mean words of SFT, with an interval where it can be had."""
    lengths = np.stack([_words(samples.policy), _words(samples.sft)], 1)
    if not lengths[:, 1].any():
        return empty_interval()
    # Chance that a resample of the prompts holds nothing but empty SFT responses, so no ratio.
    if np.mean(lengths[:, 1] == 0) ** len(lengths) > NO_RATIO:
        value = float(lengths[:, 0].sum() / lengths[:, 1].sum())
        return Interval(value, math.nan, math.nan, len(lengths))
    return estimator.bootstrap(lengths, groups, ratio_of_means)


def _words(responses: Texts) -> Array:
    """Mean words of each prompt's responses, ``(P,)``."""
    return _means([[word_count(text) for text in texts] for texts in responses])


def _means(values: Sequence[Sequence[float]]) -> Array:
    """Mean of each prompt's values, ``(P,)``."""
    return np.array([np.mean(row) for row in values], np.float64)
