"""``select``: of the best checkpoints by validation reward, the one that wins most against SFT."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from rlaif_pl.data.metric_files import save_figure, write_metrics, write_page
from rlaif_pl.data.sources import DataSource, is_sensitive, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation import selection
from rlaif_pl.evaluation.samples import Reporting, write_samples
from rlaif_pl.evaluation.win_rate import compare
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.device import on_device, resolve_device
from rlaif_pl.models.model_folder import check_place
from rlaif_pl.pipeline.yaml_files import at, read_yaml
from rlaif_pl.rl.generate import Responses, generate
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Labeler, Prompt

ACTOR = "model.init_args.actor"
# What a stage computed in; its weights stay in float32, in which they are exported.
AUTOCAST = {"bf16-true": torch.bfloat16, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CONFIGS = ("config.yaml", "resolved_config.yaml")  # of a stage of `run`, of a fit alone


@on_device
def select(
    run: str,
    prompts: DataSource | str,
    out: str,
    labeler: Labeler | str = "likelihood",
    k: int = 4,
    monitor: str = "a2c/val_reward",
    final: DataSource | str | None = None,
    sampling: SamplingParams = SamplingParams(n=1, temperature=0.9),  # noqa: B008 - frozen
    batch_size: int = 16,
    seed: int = 0,
    reporting: Reporting = Reporting(),  # noqa: B008 - frozen
    device: str = "auto",
) -> int:
    """Choose a checkpoint as the paper does, on prompts set aside for that, and export its policy.

    Of the ``k`` checkpoints that A2C kept for their validation reward, each answers the prompts; a
    judge compares the answers with those of the SFT policy, which is the actor's reference. The winner
    becomes OUT/policy. Models compute in the precision that the run trained in.

    Args:
        run: Folder of the finished A2C stage, or of a ``fit``, with its config and checkpoints/.
        prompts: Development prompts: neither trained on nor those that report the result.
        out: Folder for policy/, results.md, candidates.svg, metrics.json and samples.jsonl.
        labeler: Judge; one that asks for pairs does so in both orders.
        k: Checkpoints to compare at most.
        monitor: Metric that ``ModelCheckpoint`` kept them for.
        final: Prompts that will report the result; named here, they are refused among ``prompts``.
        sampling: How each policy responds, ``n`` times to each prompt.
        batch_size: Prompts at a time.
        seed: Seeds sampling and bootstrap.
        reporting: Intervals, texts.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started, estimator = time.monotonic(), Estimator(reporting.draws, seed)
    folder = Path(out)
    check_place(folder / "policy")
    rows = list(load_prompts(prompts))
    refuse_final(rows, final)
    found = selection.find_candidates(Path(run) / "checkpoints", monitor, k)
    judge = build_labeler(labeler)
    config, place = config_of(Path(run)), resolve_device(device)
    actor = build_actor(config).to(place)
    dtype = AUTOCAST.get(str(at(dict(read_yaml(config)), "trainer.precision")))

    def draw(policy: CausalModel, title: str) -> Responses:
        with torch.autocast(place.type, dtype, enabled=dtype is not None):
            params = sampling.seeded(seed)
            return generate(policy, rows, params, batch_size=batch_size, title=title)

    before = draw(actor.reference, title="sampling from SFT")
    texts, groups = [row.text for row in rows], [row.group for row in rows]
    judged, answers = [], {"sft": before.texts}
    for candidate in found:
        load_weights(actor, candidate)
        after = draw(actor.policy, title=f"sampling from step {candidate.step}")
        rate = compare(texts, after.texts, before.texts, judge, groups, estimator=estimator)
        cut = [flag for row in after.unfinished for flag in row]
        judged.append(selection.JudgedCandidate(candidate, rate, sum(cut) / len(cut)))
        answers[candidate.name] = after.texts
    chosen = selection.choose(judged)
    load_weights(actor, chosen.candidate)
    actor.cpu().save_pretrained(folder / "policy")
    samples = (
        {"prompt": row.text, **{name: given[n] for name, given in answers.items()}}
        for n, row in enumerate(rows)
    )
    write_samples(folder, samples, show_text=reporting.shows(is_sensitive(prompts)))
    page = selection.page_of(judged, chosen)
    page.render(Console())
    write_page(folder, page)
    save_figure(selection.plot(judged, chosen), folder / page.plot)
    metrics = selection.selection_metrics(judged, chosen)
    seconds = {"select/prompts": float(len(rows)), "select/seconds": time.monotonic() - started}
    write_metrics(folder / "metrics.json", metrics | seconds)
    return 0


def refuse_final(rows: list[Prompt], final: DataSource | str | None) -> None:
    """Refuse (ValueError) to choose on prompts that report the result."""
    reserved = set() if final is None else {row.group for row in load_prompts(final)}
    shared = sum(row.group in reserved for row in rows)
    if shared:
        raise ValueError(
            f"expected prompts that report nothing, got {shared} of {len(rows)} that are in `final` "
            "too: the chosen policy would look better there than it is; choose on others"
        )


def config_of(run: Path) -> Path:
    """Return the config in a folder of ``run``'s, or of a lone ``fit``; ``FileNotFoundError``: none."""
    for name in CONFIGS:
        if (run / name).is_file():
            return run / name
    raise FileNotFoundError(
        f"expected {' or '.join(CONFIGS)} in {run}, found neither; give the folder of an A2C stage"
    )


def build_actor(config: Path) -> ActorCritic:
    """Build the actor of an A2C stage from its resolved config; ``ValueError``: it has no such one."""
    node = at(dict(read_yaml(config)), ACTOR)
    if not isinstance(node, dict):
        raise ValueError(
            f"expected {ACTOR} in {config}, found none; give the folder of an A2C stage"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--actor", type=ActorCritic)
    actor = parser.instantiate(parser.parse_object({"actor": node})).actor
    if not isinstance(actor, ActorCritic):
        raise ValueError(f"expected {ACTOR} in {config} to be an ActorCritic, got {type(actor)}")
    return actor.eval()


def load_weights(actor: ActorCritic, candidate: selection.Candidate) -> None:
    """Put a checkpoint's weights into the actor; ``ValueError``: it lacks some that are trained."""
    weights = selection.policy_weights(candidate.path)
    trained = {name for name, value in actor.named_parameters() if value.requires_grad}
    missing = sorted(trained - weights.keys())
    if missing:
        raise ValueError(
            f"expected every trained weight of the actor in {candidate.path}, missing "
            f"{missing[:3]}; the config beside it is of another run"
        )
    actor.load_state_dict(weights, strict=False)
