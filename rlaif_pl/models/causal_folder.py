"""Write a causal language model as a plain transformers folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlaif_pl.models.model_folder import replaced_whole
from rlaif_pl.models.text_format import TextFormat
from rlaif_pl.models.tokenizer_files import name_rope_for_all, save_tokenizer


def save_causal(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str | None = None,
    *,
    text_format: TextFormat | None = None,
    revision: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a plain transformers folder (safetensors), whole or not at all.

    Args:
        folder: Where to; an older model there is replaced.
        model: A causal LM without adapters (see ``rlaif_pl.models.adapters.merged``).
        tokenizer: Its tokenizer.
        card: Text of its README.md, if it is to have one.
        text_format: How it reads texts, where it was trained to.
        revision: Commit of the hub model that the tokenizer was read from.
        check: Raises where the written files are not right; they then take no place.

    Raises:
        ValueError: Something else than a model stands there.
    """
    with replaced_whole(folder) as work:
        model.save_pretrained(work)
        name_rope_for_all(work / "config.json")
        save_tokenizer(work, tokenizer, revision)
        if card is not None:
            (work / "README.md").write_text(card, encoding="utf-8")
        if text_format is not None:
            text_format.save(work)
        if check is not None:
            check(work)
    return Path(folder)
