"""A data set card: what stands in a table of labels, where it came from, what to believe of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import yaml

from rlaif_pl.data.label_export import Exported
from rlaif_pl.tables import Column, Table
from rlaif_pl.types import Preference

# The hub's size categories: numbers of rows of up to three digits, of four, of five, ...
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
COLUMNS = {
    "prompt": "what both responses reply to",
    "first": "one response; sides carry no meaning",
    "second": "the other response",
    "p_first": "probability that `first` is better, in [0, 1]; 0.5 is a tie",
    "chosen": "the likelier better response",
    "rejected": "the other",
    "p_chosen": "probability that `chosen` is better, in (0.5, 1]",
    "margin": "log-odds of `p_chosen` in nats; TRL's RewardTrainer subtracts it in its loss",
    "weight": "importance in the loss",
    "source": "`ai`, `human`, `reading` or `synthetic`",
    "group": "identity of the prompt: split by it, never by row",
    "labeler": "model, revision and settings that made the label",
    "strategy": "how it was asked",
    "prompt_version": "version of the labeling prompt",
    "first_policy": "who wrote `first`",
    "second_policy": "who wrote `second`",
    "slot": "slot (1 or 2) that won in both orders, if one did",
    "ensemble_spread": "in an ensemble, difference between its members' probabilities",
    "confidence": "annotator's confidence on the scale of the source",
    "written": "of `tokens`, those written",
    "failure": "why there is no label; null in every row here",
    "position_gap": "difference of the probability between the two orders",
    "same_slot": "whether the same slot won in both orders",
    "off_option_mass": "probability outside the verdict tokens",
    "tie_mass": "probability of a tie among the verdicts, where ties were asked for",
    "tokens": "tokens read and written for the label",
    "cost_usd": "US dollars paid for the label",
    "messages": "turns that `prompt` writes out; null where it is no conversation",
}
MEASURES = {
    "alignment": "agrees with gold verdicts",
    "length_baseline": "'the longer response wins' agrees with gold verdicts",
    "gain_over_length": "difference of the two",
    "length_matched": "agrees with gold verdicts where lengths are alike",
    "same_slot": "same slot wins in both orders",
}


def dataset_card(
    name: str,
    pairs: Sequence[Preference],
    exported: Exported,
    data_file: str,
    license_id: str = "unknown",
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Write the card of an export of ``pairs``; ``metrics`` are those of the labeling job."""
    known, names = metrics or {}, exported.schema.names
    soft = {"margin": "log-odds of `first` in nats, before any temperature"}
    meanings = COLUMNS | soft if "p_first" in names else COLUMNS
    columns = [[f"`{name}`", meanings.get(name, name)] for name in names]
    parts = [
        "---\n" + _front_matter(name, exported, data_file, license_id) + "---",
        f"# {name}",
        "Preferences between two responses to a prompt, labeled "
        + _labeled_by(pairs)
        + ". Made with rlaif_pl (reinforcement learning from AI feedback, arXiv 2309.00267).",
        _table("Columns", ["column", "meaning"], columns),
        _table("Provenance", ["labeler", "strategy", "prompt version", "rows"], _provenance(pairs)),
        _table("Counts", ["pairs", "number"], _counts(pairs, exported, known)),
        _believe(known),
        "## License\n\n"
        f"Declared: `{license_id}`. Prompts and responses keep the license of the data they come "
        "from, and labels are output of the labeler: its terms may restrict their use (for example "
        "training competing models). Check both before publishing.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(name: str, exported: Exported, data_file: str, license_id: str) -> str:
    digits = len(str(len(exported.rows)))
    size = SIZES[min(max(digits, 3), 8) - 3]
    files = [{"split": "train", "path": data_file}]
    content = {
        "pretty_name": name,
        "license": license_id,
        "size_categories": [size],
        "tags": ["preference", "rlaif", "ai-feedback"]
        + ["trl"] * ("chosen" in exported.schema.names),
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _labeled_by(pairs: Sequence[Preference]) -> str:
    sources = Counter(pair.source for pair in pairs if pair.p_first is not None)
    who = {
        "ai": "by a language model",
        "human": "by people",
        "reading": "by a language model that read them blind",
        "synthetic": "by construction",
        None: "by unknown judges",
    }
    named = [f"{who[source]} ({n})" for source, n in sources.most_common()]
    return " and ".join(named) or "by nobody"


def _provenance(pairs: Sequence[Preference]) -> list[list[str]]:
    notes = (pair.provenance for pair in pairs if pair.p_first is not None)
    found = Counter((note.labeler, note.strategy, note.prompt_version) for note in notes)
    return [
        [*(f"`{part}`" if part else "not recorded" for part in key), str(n)]
        for key, n in found.most_common()
    ]


def _counts(
    pairs: Sequence[Preference], exported: Exported, metrics: Mapping[str, float]
) -> list[list[str]]:
    prefix = "label/failed_"
    failed = [(key, n) for key, n in sorted(metrics.items()) if key.startswith(prefix)]
    tokens = sum(pair.provenance.tokens for pair in pairs)
    cost = math.fsum(pair.provenance.cost_usd for pair in pairs)
    return [
        ["in this table", str(len(exported.rows))],
        *([f"left out: {reason}", str(n)] for reason, n in sorted(exported.left_out.items())),
        *([f"asked for in vain: {key.removeprefix(prefix)}", f"{n:.0f}"] for key, n in failed),
        ["ties among the labels (p = 0.5)", str(sum(pair.p_first == 0.5 for pair in pairs))],
        ["tokens read and written for the labels", f"{metrics.get('label/tokens', tokens):,.0f}"],
        ["US dollars paid for them", f"{metrics.get('label/cost_usd', cost):.2f}"],
    ]


def _believe(metrics: Mapping[str, float]) -> str:
    prefix = "labeler/"
    rows = []
    for key, meaning in ((prefix + name, meaning) for name, meaning in MEASURES.items()):
        if key in metrics:
            ends = [metrics[end] for end in (f"{key}_low", f"{key}_high") if end in metrics]
            limits = ", ".join(f"{100 * end:.1f}" for end in ends)
            known = f" [{limits}]" if len(ends) == 2 else ""
            rows.append([meaning, f"{100 * metrics[key]:.1f} %{known}"])
    if not rows:
        return "## Agreement with gold verdicts\n\nNot measured. Treat the labels as unverified."
    pairs = metrics.get(f"{prefix}n", math.nan)
    count = f" on {pairs:.0f} pairs with gold verdicts" if math.isfinite(pairs) else ""
    title = f"Agreement with gold verdicts\n\nThe labeler{count}, with 95 % intervals:"
    return _table(title, ["", "share"], rows)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    """Lay out a section with a table; "" without rows."""
    columns = [Column(name, align="left") for name in header]
    return f"## {title}\n\n{Table('', columns, rows).markdown()}" if rows else ""
