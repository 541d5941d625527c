"""What the commands do, in memory: ``generate``, ``label`` and ``evaluate``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial

from rlaif_pl.data.failures import causes
from rlaif_pl.data.label_store import IN_MEMORY, LabelStore
from rlaif_pl.data.labeling_pass import label_pairs
from rlaif_pl.data.sources import Data, load_preferences, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.judges import EmbeddingJudge
from rlaif_pl.evaluation.policy import PolicyReport, PolicySamples, evaluate_policy, references_of
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.device import put
from rlaif_pl.models.policy import Policy
from rlaif_pl.rl.function_reward import AnyReward, as_reward
from rlaif_pl.rl.generate import GenerationBackend, pairs_of
from rlaif_pl.rl.generate import generate as sample_all
from rlaif_pl.rl.kl import kl_by_prompt
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.rl.splicing import spliced_pairs
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Labeler, Preference, Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Samples:
    """Responses of one policy, ``n`` to each of ``P`` prompts.

    Attributes:
        prompts: Prompts, each text of a group once. ``P``
        texts: Responses. ``P`` lists
        unfinished: True where the length limit cut the text. ``P`` lists
        tokens: Token ids as they were drawn. ``P`` lists of rows
        author: What pairs say about who wrote them: weights and settings.
    """

    prompts: list[Prompt]
    texts: list[list[str]]
    unfinished: list[list[bool]]
    tokens: list[list[list[int]]]
    author: str

    def pairs(self, spliced: int = 0, seed: int = 0) -> list[Preference]:
        """Pair the first response to a prompt with the second, the third with the fourth, and so on.

        Pairs are unlabeled; equal and empty responses make none. Behind them stand ``spliced`` more a
        prompt, chosen by ``seed``, of a response and itself with the end of a response to another
        prompt (see ``rl.splicing.spliced_pairs``).

        Raises:
            ValueError: There is an odd number of responses a prompt, fewer than ``spliced``, or no pair
                is left.
        """
        if any(len(texts) % 2 for texts in self.texts):
            raise ValueError(
                f"expected an even number of responses a prompt, as pairs are made of them, got "
                f"{len(self.texts[0])}; set SamplingParams(n=2)"
            )
        pairs = pairs_of(self.prompts, self.texts, self.author)
        if not pairs:
            raise ValueError(
                "expected pairs of two different responses, got none from "
                f"{len(self.prompts)} prompts: all {sum(map(len, self.texts))} responses are empty or "
                "the same as the other one; raise sampling.temperature or sampling.max_new_tokens, or "
                "look at the policy"
            )
        return pairs + spliced_pairs(self.prompts, self.texts, self.author, spliced, seed)


def generate(
    policy: Policy,
    prompts: Data,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008 - frozen
    seed: int = 0,
    *,
    batch_size: int = 16,
    title: str = "sampling",
    generator: GenerationBackend | None = None,
) -> Samples:
    """Sample responses to prompts, as the command ``sample`` does.

    The noise depends on seed, prompt and number of the response only, not on batches.

    Args:
        policy: Policy to sample from, moved to the device that it was made for.
        prompts: Texts, ``Prompt`` objects, dicts, a ``datasets.Dataset``, or the name of data.
        sampling: How responses are drawn, ``n`` to each prompt.
        seed: Seeds the noise; ``sampling.seed`` comes first.
        batch_size: Prompts at a time, at least 1.
        title: Name of the progress bar.
        generator: Who draws: this process (None), or servers (``VLLMGenerator``).

    Raises:
        TypeError: ``policy`` is no ``Policy``.
        ValueError: There is no prompt, or a text could outgrow the model: nothing is sampled then.
    """
    if not isinstance(policy, Policy):
        raise TypeError(
            f"expected a Policy, got {type(policy).__name__}; make one with Policy.from_pretrained"
        )
    if policy.home is not None:
        policy.to(policy.home)  # a trainer leaves models on the CPU
    rows, params = list(load_prompts(prompts)), sampling.seeded(seed)
    policy.eval()
    found = sample_all(
        policy, rows, params, batch_size=batch_size, title=title, generator=generator
    )
    return Samples(rows, *found, author=f"{policy.identity()} {params}")


def label(
    pairs: Data,
    labeler: Labeler | str = "likelihood",
    *,
    store: str = IN_MEMORY,
    chunk: int = 64,
    progress: bool = True,
) -> list[Preference]:
    """Ask a labeler which response of each pair is better, as the command ``label`` does.

    Pairs that it could not judge are left out with a warning that counts them; ``labeler.label(pairs)``
    returns those too, with the reason.

    Args:
        pairs: Pairs of responses, as objects or by name; labels they have are not shown to the labeler.
        labeler: A labeler, or the name of one that needs no arguments (``likelihood``, ``pairwise``).
        store: SQLite file that keeps the answers, so that none is asked for twice; by default none
            outlives the call.
        chunk: Pairs asked for at a time, at least 1.
        progress: Whether to show a progress bar.

    Returns:
        Labeled pairs in order, with ``p_first``, ``source`` and ``provenance``.

    Raises:
        ValueError: There is no pair, or the labeler could judge none.
    """
    judge, rows = build_labeler(labeler), load_preferences(pairs).rows
    with LabelStore(store) as answers:
        result = label_pairs(rows, judge, answers, chunk=chunk, progress=progress)
    if not result.rows:
        raise ValueError(
            f"the labeler gave no usable label for {len(rows)} pairs: {causes(result.unusable)}. Try "
            "another labeler or prompt"
        )
    if result.unusable:
        logger.warning(
            "left out %d of %d pairs that the labeler could not judge: %s",
            *(len(rows) - len(result.rows), len(rows), causes(result.unusable)),
        )
    return list(result.rows)


def evaluate(
    policy: Policy,
    sft: Policy,
    prompts: Data,
    sampling: SamplingParams = SamplingParams(n=4, temperature=0.9),  # noqa: B008 - frozen
    *,
    reward: AnyReward,
    labeler: Labeler | str = "likelihood",
    independent: bool | Labeler = True,
    batch_size: int = 16,
    draws: int = 2000,
    seed: int = 0,
) -> PolicyReport:
    """Compare a trained policy with the policy it came from, as ``evaluate policy`` does.

    Args:
        policy: Policy after reinforcement learning.
        sft: Policy before it.
        prompts: Held-out prompts, with references where there are any.
        sampling: How each policy responds, ``n`` times to each prompt.
        reward: The reward it was trained on: a model, or a function of prompts and responses.
        labeler: The labeler whose labels trained the reward, or by name; the first judge.
        independent: A judge that trained nothing here; True takes sentence embeddings, False none.
        batch_size: Prompts at a time, at least 1.
        draws: Bootstrap resamples, at least 1.
        seed: Seeds sampling and bootstrap.

    Returns:
        The report: ``win_rates``, ``quantities`` with intervals by prompt, ``samples``; its
        ``to_metrics()``, ``render(console)`` and ``write(folder)``.

    Raises:
        TypeError: A policy is no ``Policy``.
        ValueError: There is no prompt, a reward is missing or not finite, or a prompt lacks a column
            that the reward requires.
    """
    judge, paid, rows = build_labeler(labeler), as_reward(reward), load_prompts(prompts)
    check_columns(paid, rows)
    sampled, greedy = sample_both(policy, sft, rows, sampling, seed=seed, batch_size=batch_size)
    put(paid, policy.device)
    return report_on(sampled, greedy, paid, judge, independent, Estimator(draws, seed))


def sample_both(
    policy: Policy,
    sft: Policy,
    prompts: Data,
    sampling: SamplingParams,
    *,
    seed: int = 0,
    batch_size: int = 16,
    generator: GenerationBackend | None = None,
) -> tuple[PolicySamples, PolicySamples | None]:
    """Sample both policies on the same prompts with the same noise, and measure the KL between them.

    Returns:
        Responses as ``sampling`` says, and greedy ones, one to a prompt; None in their place where
        ``sampling`` is that already.
    """
    params, rows = sampling.seeded(seed), list(load_prompts(prompts))
    draw = partial(generate, batch_size=batch_size, generator=generator)

    def both(params: SamplingParams) -> PolicySamples:
        how = "greedily" if params.temperature == 0 else "sampling"
        old = draw(sft, rows, params, title=f"{how} from SFT")
        new = draw(policy, rows, params, title=f"{how} from policy")
        kl = kl_by_prompt(policy, sft, rows, new.tokens, params)
        return PolicySamples(rows, old.texts, new.texts, old.unfinished, new.unfinished, kl)

    likeliest = replace(params, n=1, temperature=0.0)
    return both(params), None if likeliest == params else both(likeliest)


def report_on(
    sampled: PolicySamples,
    greedy: PolicySamples | None,
    reward: AnyReward,
    labeler: Labeler,
    independent: bool | Labeler,
    estimator: Estimator,
) -> PolicyReport:
    """Judge samples by reward, labeler and, unless it is False, an independent judge."""
    other: Labeler | None = None if isinstance(independent, bool) else independent
    if independent is True:
        other = EmbeddingJudge(references_of(sampled.prompts))
    paid = as_reward(reward)
    measure = partial(
        evaluate_policy, reward=paid, labeler=labeler, independent=other, estimator=estimator
    )
    return replace(measure(sampled), greedy=None if greedy is None else measure(greedy))
