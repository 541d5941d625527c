"""``evaluate matrix``: several policies, each against each, by several judges."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from rlaif_pl.data.disk import file_named
from rlaif_pl.data.metric_files import write_json, write_metrics
from rlaif_pl.data.sources import DataSource, is_sensitive, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.judges import EmbeddingJudge, RewardJudge, RougeJudge, rouge_tokens
from rlaif_pl.evaluation.policy import references_of
from rlaif_pl.evaluation.reward_accuracy import rewards_of
from rlaif_pl.evaluation.samples import Reporting
from rlaif_pl.evaluation.win_rate import copied_shares
from rlaif_pl.evaluation.win_rates import measure
from rlaif_pl.evaluation.win_rates import report as matrix_report
from rlaif_pl.evaluation.win_rates.measure import MatrixJudges
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.backbone import fingerprint_of
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.policy import BackboneOptions, Policy, load_policy
from rlaif_pl.models.text_format import format_of
from rlaif_pl.recipes.rest_parts import Parts, Result
from rlaif_pl.rl.generate import Responses, generate
from rlaif_pl.rl.kl import kl_by_prompt
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import Template, strip_surplus_symbols, word_count
from rlaif_pl.types import Labeler, Prompt, Reward

KEPT = "responses.json"  # in a policy's folder


@on_device
def matrix(
    policies: dict[str, BackboneOptions],
    prompts: DataSource | str,
    out: str,
    sft: str | None = None,
    best_of: dict[str, measure.BestOf] | None = None,
    judges: MatrixJudges = MatrixJudges(),  # noqa: B008 - frozen
    template: Template | None = None,
    sampling: SamplingParams = SamplingParams(n=2, temperature=0.9),  # noqa: B008 - frozen
    batch_size: int = 16,
    seed: int = 0,
    reporting: Reporting = Reporting(draws=1000),  # noqa: B008 - frozen
    device: str = "auto",
) -> int:
    """Compare every two of several policies on the same prompts by several judges.

    Each policy is sampled once, with the same noise; its samples are kept in OUT/sampled, so that a
    killed run goes on with the next policy.

    Args:
        policies: Policies by name, at least two.
        prompts: Evaluation prompts, with references where there are any.
        out: Folder for results.md, matrix.csv, samples.jsonl, verdicts.jsonl, win_matrix.png and
            metrics.json.
        sft: Name of the policy that KL is measured from; None measures none.
        best_of: More policies by name: the best of n responses of one above, by a reward of ``judges``.
        judges: Who compares.
        template: How texts are written, `chat` or keys (`--template.help`); default: as a folder says.
        sampling: How each policy responds, ``n`` times to each prompt.
        batch_size: Prompts at a time.
        seed: Seeds sampling and bootstrap.
        reporting: Intervals, texts.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started, estimator = time.monotonic(), Estimator(reporting.draws, seed)
    place = resolve_device(device)
    if sft is not None and sft not in policies:
        raise ValueError(f"expected sft to be one of {list(policies)}, got {sft!r}")
    rows = list(load_prompts(prompts))
    params = sampling.seeded(seed)
    rewards, chosen = judges.rewards or {}, best_of or {}
    measure.check_policies(policies, chosen, rewards)
    for reward in rewards.values():
        check_columns(reward, rows)
        put(reward, place)
    reference = None if sft is None else load_policy(policies[sft], template).to(place)
    columns = {}
    for name in [*policies, *chosen]:
        rule = chosen.get(name)
        options = policies[name if rule is None else rule.policy]
        many = params if rule is None else replace(params, n=params.n * rule.n)
        made, kl = sample(name, options, rows, many, batch_size, template, reference, Path(out))
        if rule is not None:  # what was chosen is no longer distributed as its policy writes
            made, kl = measure.choose_best(rows, made, rewards[rule.reward], rule.n), None
        columns[name] = columns_of(rows, made, kl, rewards, estimator)
    del reference
    asked: dict[str, Labeler] = {
        **{name: build_labeler(each) for name, each in (judges.labelers or {}).items()},
        **{name: RewardJudge(reward, name, rows) for name, reward in rewards.items()},
    }
    references = references_of(rows)
    if judges.independent:
        asked["embedding"] = EmbeddingJudge(references)
    is_whole = len(references) == len({row.text for row in rows})
    if judges.rouge and is_whole and any(map(rouge_tokens, references.values())):
        asked["rouge_l"] = RougeJudge(references)
    result = measure.measure_matrix(rows, columns, asked, judges.taught or {}, estimator=estimator)
    matrix_report.page_of(result).render(Console())
    shown = reporting.shows(is_sensitive(prompts))
    matrix_report.write(result, rows, out, show_text=shown)
    metrics = matrix_report.to_metrics(result)
    seconds = {"matrix/seconds": time.monotonic() - started}
    write_metrics(Path(out) / "metrics.json", metrics | seconds)
    return 0


def sample(
    name: str,
    options: BackboneOptions,
    prompts: list[Prompt],
    params: SamplingParams,
    batch_size: int,
    template: Template | None,
    reference: Policy | None,
    out: Path,
) -> tuple[Responses, list[float] | None]:
    """Sample a policy, measure its KL where there is a reference, and keep both in OUT/sampled/NAME.

    What is kept is read where prompts, settings and weights are the same. Parts of a policy depend on
    no other's: one more policy has none sampled again.
    """
    part = file_named(Path("sampled"), name, "")  # or an error before weights are read
    given = {
        "policy": fingerprint_of(options),
        "template": asdict(format_of(options.name, options.revision, template=template).template),
        "sft": None if reference is None else [reference.fingerprint, asdict(reference.template)],
        "sampling": asdict(params),
        "prompts": [prompt.text for prompt in prompts],
    }

    def work(folder: Path) -> Result:
        model, title = load_policy(options, template).to(resolve_device()), f"sampling {name}"
        made, kl = generate(model, prompts, params, batch_size=batch_size, title=title), None
        if reference is not None:
            kl = kl_by_prompt(model, reference, prompts, made.tokens, params)
        write_json(folder / KEPT, {**made._asdict(), "kl": kl})
        return {}

    folder, _ = Parts(out, given).run(str(part), {}, work)
    content = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    kl = content.pop("kl")
    return Responses(**content), kl


def columns_of(
    prompts: list[Prompt],
    responses: Responses,
    kl: list[float] | None,
    rewards: Mapping[str, Reward],
    estimator: Estimator,
) -> measure.PolicyColumns:
    """Measure a policy's responses: words, copying, unfinished ones, KL and rewards."""
    groups = [prompt.group for prompt in prompts]
    mean = partial(estimator.mean, groups=groups)
    clean = [[strip_surplus_symbols(text) for text in texts] for texts in responses.texts]
    copied = copied_shares([prompt.text for prompt in prompts], clean)
    paid = {
        name: mean(rewards_of(prompts, responses.texts, reward).reshape(len(prompts), -1).mean(1))
        for name, reward in rewards.items()
    }
    return measure.PolicyColumns(
        texts=responses.texts,
        words=mean([np.mean([word_count(text) for text in texts]) for texts in clean]),
        copied_4grams=estimator.share(copied, groups),
        unfinished=float(np.mean([flag for flags in responses.unfinished for flag in flags])),
        kl=None if kl is None else mean(kl),
        rewards=paid,
    )
