"""``sample``: responses of a policy, as unlabeled pairs."""

from __future__ import annotations

import time
from pathlib import Path

from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_prompts
from rlaif_pl.evaluation.metrics import write_metrics
from rlaif_pl.evaluation.win_rate import text_measures
from rlaif_pl.models.device import on_device, resolve_device
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import Responses, generate
from rlaif_pl.text import Template, word_count
from rlaif_pl.types import Preference, Prompt, Provenance


@on_device
def sample(
    policy: BackboneOptions,
    prompts: DataSource | str,
    out: str,
    pairs_per_prompt: int = 1,
    template: Template = Template(),  # noqa: B008 - frozen
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Sample responses to prompts and write them as unlabeled pairs to OUT/pairs.jsonl.

    A pair of two equal or empty responses says nothing and is left out and counted.

    Args:
        policy: Model to sample from.
        prompts: What to respond to.
        out: Folder for pairs.jsonl and metrics.json.
        pairs_per_prompt: Pairs of fresh responses to each prompt.
        template: How prompts and responses are written.
        max_new_tokens: Length limit of a response, EOS included.
        temperature: Divides the logits; the paper samples at 1.
        batch_size: Prompts at a time.
        seed: Seeds the sampling noise.
        device: Where models compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``
            or ``mps``.

    Raises:
        ValueError: A count is below 1, or no pair is left.
    """
    if pairs_per_prompt < 1:
        raise ValueError(f"expected pairs_per_prompt of at least 1, got {pairs_per_prompt}")
    started = time.monotonic()
    rows = load_prompts(prompts)
    model = load_policy(policy, template).to(resolve_device(device))
    responses = generate(
        model,
        rows,
        per_prompt=2 * pairs_per_prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        title=f"sampling {len(rows)} prompts",
    )
    pairs = different(rows, responses, f"{model.fingerprint} T={temperature} seed={seed}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    flat = [text for texts in responses.texts for text in texts]
    cut = [flag for flags in responses.unfinished for flag in flags]
    measures = text_measures([prompt.text for prompt in rows], responses.texts)
    write_metrics(
        folder / "metrics.json",
        {
            "sample/pairs": len(pairs),
            "sample/dropped": len(rows) * pairs_per_prompt - len(pairs),
            "sample/words": sum(map(word_count, flat)) / len(flat),
            "sample/unfinished": sum(cut) / len(cut),
            "sample/copied_4grams": measures.copied_4grams,
            "sample/seconds": time.monotonic() - started,
        },
    )
    if not pairs:
        raise ValueError(
            f"expected pairs of two different responses, got none from {len(rows)} prompts: all "
            f"{len(flat)} responses are empty or the same as the other one; raise temperature or "
            "max_new_tokens, or look at the policy"
        )
    write_preferences(folder / "pairs.jsonl", pairs)
    return 0


def different(rows: list[Prompt], responses: Responses, author: str) -> list[Preference]:
    """Put each two responses to a prompt into a pair, unless they are equal or one is empty.

    Args:
        rows: The prompts.
        responses: An even number of responses to each.
        author: What the pairs say about who wrote them.
    """
    provenance = Provenance(first_policy=author, second_policy=author)
    return [
        Preference(prompt.text, texts[k], texts[k + 1], prompt.group, provenance=provenance)
        for prompt, texts in zip(rows, responses.texts, strict=True)
        for k in range(0, len(texts), 2)
        if texts[k] and texts[k + 1] and texts[k] != texts[k + 1]
    ]
