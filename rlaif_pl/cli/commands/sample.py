"""``sample``: responses of a policy, as unlabeled pairs."""

from __future__ import annotations

import time
from pathlib import Path

from rlaif_pl.api import generate
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.win_rate import text_measures
from rlaif_pl.models.device import on_device, resolve_device
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import DrawingOptions, pairs_of
from rlaif_pl.rl.splicing import check_spliced, spliced_pairs
from rlaif_pl.text import Template, word_count


@on_device
def sample(
    policy: BackboneOptions,
    prompts: DataSource | str,
    out: str,
    template: Template | None = None,
    sampling: SamplingParams = SamplingParams(n=2),  # noqa: B008 - frozen
    drawing: DrawingOptions = DrawingOptions(),  # noqa: B008 - frozen
    spliced: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Sample responses to prompts and write them as unlabeled pairs to OUT/pairs.jsonl.

    A pair of two equal or empty responses says nothing and is left out and counted.

    Args:
        policy: Model to sample from.
        prompts: What to respond to.
        out: Folder for pairs.jsonl and metrics.json.
        template: How texts are written, `chat` or keys (`--template.help`); default: as a folder says.
        sampling: How responses are drawn; every two of the ``n`` make a pair. The paper draws at
            temperature 1.
        spliced: Further pairs a prompt, at most ``sampling.n``: a response, and itself with the end of
            another prompt's response, so that a reward learns what belongs to a prompt
            (arXiv 2409.13156 mixes prompts likewise).
        drawing: How many prompts at a time, and who draws.
        seed: Seeds the sampling noise and the choice of ends.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ValueError: ``n`` is odd or less than ``spliced``, or no pair is left.
    """
    if sampling.n % 2:
        raise ValueError(
            f"expected an even sampling.n, as pairs are made of them, got {sampling.n}"
        )
    started, folder = time.monotonic(), Path(out)
    rows = load_prompts(prompts)
    check_spliced(spliced, sampling.n, rows)
    responses = generate(
        load_policy(policy, template).to(resolve_device(device)),
        rows,
        sampling,
        seed,
        batch_size=drawing.batch_size,
        title=f"sampling {len(rows)} prompts",
        generator=drawing.generator,
    )
    pairs = pairs_of(rows, responses.texts, responses.author)
    taken = sampling.seeded(seed).seed or 0
    mixed = spliced_pairs(rows, responses.texts, responses.author, spliced, taken)
    flat = [text for texts in responses.texts for text in texts]
    cut = [flag for flags in responses.unfinished for flag in flags]
    metrics = {
        "sample/pairs": len(pairs),
        "sample/dropped": len(rows) * sampling.n // 2 - len(pairs),
        "sample/spliced": len(mixed),
        "sample/words": sum(map(word_count, flat)) / len(flat),
        "sample/unfinished": sum(cut) / len(cut),
        "sample/copied_4grams": text_measures(
            [p.text for p in rows], responses.texts
        ).copied_4grams,
        "sample/seconds": time.monotonic() - started,
    }
    write_metrics(folder / "metrics.json", metrics)
    write_preferences(folder / "pairs.jsonl", responses.pairs() + mixed)  # an error where none
    return 0
