"""What reinforcement learning made of a policy: rewards, wins, lengths, copying, KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.evaluation.judges import RougeJudge, rouge_l, rouge_tokens
from rlaif_pl.evaluation.pairs import Array, JudgedPair, comparison_key, side, write_verdicts
from rlaif_pl.evaluation.reward_accuracy import rewards_of
from rlaif_pl.evaluation.samples import GREEDY, write_samples
from rlaif_pl.evaluation.win_rate import Texts, WinRate, compare, copied_shares, means
from rlaif_pl.statistics import Estimator, Interval, empty_interval, ratio_of_means
from rlaif_pl.tables import Column, Columns, Page, Rows, Table
from rlaif_pl.text import (
    is_repetitive,
    judge_name,
    shared_ngrams,
    strip_surplus_symbols,
    word_count,
)
from rlaif_pl.types import Labeler, Prompt, Reward

NO_RATIO = 1e-9  # chance of a resample without a length ratio that is taken for none
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
    policy_unfinished: Sequence[Sequence[bool]] | None = None
    # KL from SFT in nats a response, mean over a prompt's responses; None where not measured. `P`
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
    quantities: Mapping[str, Interval]  # by metric name, such as `a2c/reward_gain`
    win_rates: Mapping[str, WinRate]  # by name, the training labeler's first
    greedy: PolicyReport | None = None  # the same of likeliest responses; None where not measured

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
        columns: Columns = ["measure", Column("mean [interval]", ".3f")]
        title, rows = f"Policy on held-out prompts{decoding}", list(self.quantities.items())
        measured = Table(title, columns, rows)
        columns = ["comparison", "wins [interval]", "at equal length"]
        columns += [Column("judge", align="left")]
        wins: Rows = [
            [name, rate.raw.percent(), rate.length_controlled.percent(), judge_name(rate.judge)]
            for name, rate in self.win_rates.items()
        ]
        Page([measured, Table(f"Win rates{decoding}", columns, wins)]).render(console)
        if self.greedy is not None:
            self.greedy.render(console, f", {GREEDY}")

    def write(self, folder: Path | str, *, show_text: bool = True) -> None:
        """Write ``samples.jsonl`` and ``win_rates.json`` for the report, and ``verdicts.jsonl``."""
        write_samples(folder, self._rows(), show_text=show_text)
        rates = [{"name": n, "judge": r.judge} | asdict(r.raw) for n, r in self.win_rates.items()]
        write_json(Path(folder) / "win_rates.json", rates)
        write_verdicts(folder, self._judged())

    def _judged(self) -> Iterator[JudgedPair]:
        for name, rate in self.win_rates.items():
            a, _, ending = name.partition("_vs_")
            b, _, kind = ending.partition("_")
            judge = JUDGES[kind]
            yield JudgedPair(judge, a, b, rate.verdicts, ["policy"] * (judge == "labeler"))
        wins = {}
        sides = (self.samples.policy, self.reward_policy), (self.samples.sft, self.reward_sft)
        for n, prompt in enumerate(self.samples.prompts):
            both = (zip(texts[n], rewards[n], strict=True) for texts, rewards in sides)
            for (ours, paid_a), (theirs, paid_b) in product(*both):
                first, second = strip_surplus_symbols(ours), strip_surplus_symbols(theirs)
                if first != second:
                    key = comparison_key(prompt.text, first, second)
                    wins[key] = float(side(np.array(paid_a - paid_b)))
        yield JudgedPair("reward", "policy", "sft", wins, ["policy"])

    def _rows(self) -> Iterator[dict[str, object]]:
        samples, greedy = self.samples, None if self.greedy is None else self.greedy.samples
        for n, prompt in enumerate(samples.prompts):
            row: dict[str, object] = {"prompt": prompt.text, "group": prompt.group}
            row |= {"reference": prompt.reference}
            row |= {"sft": list(samples.sft[n]), "policy": list(samples.policy[n])}
            row |= {"reward_sft": self.reward_sft[n], "reward_policy": self.reward_policy[n]}
            if greedy is not None:
                row |= {f"sft_{GREEDY}": greedy.sft[n][0], f"policy_{GREEDY}": greedy.policy[n][0]}
            yield row


def evaluate_policy(
    samples: PolicySamples,
    reward: Reward,
    labeler: Labeler,
    independent: Labeler | None = None,
    *,
    estimator: Estimator = Estimator(),
) -> PolicyReport:
    """Measure a policy against the SFT policy and the references, on texts that were sampled before.

    Rewards are those of the responses as they are (what training paid for); judges read them with
    surplus symbols at the end removed. All intervals are by prompt group. Prompts used to choose a
    recipe are not the prompts that report it.

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
    before, after = means(reward_sft), means(reward_policy)
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
            quantities[f"{system}/unfinished"] = share(means(unfinished), groups)
    rates = _win_rates(samples, labeler, independent, partial(compare, estimator=estimator))
    return PolicyReport(samples, reward_sft, reward_policy, quantities, rates)


def references_of(prompts: Sequence[Prompt]) -> dict[str, str]:
    """References by prompt text, for reference judges; of equal prompts the last counts."""
    return {prompt.text: prompt.reference for prompt in prompts if prompt.reference is not None}


def _win_rates(
    samples: PolicySamples, labeler: Labeler, other: Labeler | None, ask: Callable[..., WinRate]
) -> dict[str, WinRate]:
    texts = [prompt.text for prompt in samples.prompts]
    groups = [prompt.group for prompt in samples.prompts]
    both = (texts, samples.policy, samples.sft)
    rates = {"policy_vs_sft": ask(*both, labeler, groups)}
    if other is not None:
        rates["policy_vs_sft_independent"] = ask(*both, other, groups)
    kept = [i for i, prompt in enumerate(samples.prompts) if prompt.reference is not None]
    if not kept:
        return rates
    texts, groups = [texts[i] for i in kept], [groups[i] for i in kept]
    policy, sft = [samples.policy[i] for i in kept], [samples.sft[i] for i in kept]
    references = [[samples.prompts[i].reference or ""] for i in kept]
    if any(rouge_tokens(reference) for (reference,) in references):
        rouge = RougeJudge(references_of(samples.prompts))
        rates["policy_vs_sft_rouge"] = ask(texts, policy, sft, rouge, groups)
    rates["policy_vs_reference"] = ask(texts, policy, references, labeler, groups)
    rates["sft_vs_reference"] = ask(texts, sft, references, labeler, groups)
    return rates


def _rewards(reward: Reward, prompts: Sequence[Prompt], responses: Texts) -> list[list[float]]:
    flat = iter(rewards_of(prompts, responses, reward).tolist())
    return [[next(flat) for _ in texts] for texts in responses]


def _text_measures(
    prompts: Sequence[Prompt], responses: Texts, estimator: Estimator
) -> dict[str, Interval]:
    """Words, copied and shared 4-grams, shares of empty and repetitive texts, ROUGE-L if possible."""
    clean = [[strip_surplus_symbols(text) for text in texts] for texts in responses]
    groups = [prompt.group for prompt in prompts]
    shares = {
        "copied_4grams": copied_shares([prompt.text for prompt in prompts], clean),
        "shared_4grams": means(shared_ngrams(clean)),
        "empty": means([[not text for text in texts] for texts in clean]),
        "repetitive": means([[is_repetitive(text) for text in texts] for texts in clean]),
    }
    measures = {"words": estimator.mean(_words(clean), groups)}
    measures |= {name: estimator.share(values, groups) for name, values in shares.items()}
    likeness = [
        (prompt.group, value)
        for prompt, texts in zip(prompts, clean, strict=True)
        if prompt.reference is not None
        and math.isfinite(value := np.mean([rouge_l(text, prompt.reference) for text in texts]))
    ]
    if likeness:
        owners, values = zip(*likeness, strict=True)
        measures["rouge_l"] = estimator.mean(np.array(values), owners)
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
    ratio = estimator.bootstrap(lengths, groups, ratio_of_means)
    return replace(ratio, low=float(np.maximum(ratio.low, 0)))  # keeps NaN


def _words(responses: Texts) -> Array:
    """Mean words of each prompt's responses, ``(P,)``."""
    return means([[word_count(text) for text in texts] for texts in responses])
