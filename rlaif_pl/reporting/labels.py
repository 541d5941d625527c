"""The report's section on labels: what became of the pairs, position bias, cost beside people's."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rlaif_pl.labeling.usage.spending import factor
from rlaif_pl.statistics import Interval

KINDS = {
    "decided": "labels that favor a side",
    "tied": "ties (a label of 0.5: trained on as such, half in agreement, not in chosen/rejected)",
    "malformed": "malformed: no verdict could be read (not trained on)",
    "refused": "refused to judge (not trained on)",
    "too_long": "too long for the model (not trained on)",
    "failed": "failed calls (not trained on)",
}
UNUSABLE = ("malformed", "refused", "too_long", "failed")
MAX_SAME_SLOT, MAX_UNUSABLE = 0.8, 0.1  # the gate's defaults
SHARES = {
    "longer_wins": "labels that favor the longer response",
    "decided": "labels further than 0.1 from one half",
    "off_option_mass": "probability outside the verdict tokens",
}


Lines = list[tuple[str, str]]  # what was measured, and the figure with its interval, if any


def outcome_lines(metrics: Mapping[str, float], prefix: str = "label") -> Lines:
    """Return pairs by what became of them, and the labels' shares; none where nothing was labeled."""
    lines = [
        (text, f"{metrics[key]:,.0f}")
        for kind, text in KINDS.items()
        if (key := f"{prefix}/count/{kind}") in metrics and (metrics[key] or kind == "decided")
    ]
    shares = ((text, Interval.read(metrics, f"{prefix}/{name}")) for name, text in SHARES.items())
    return lines + [(text, found.percent()) for text, found in shares if found is not None]


def position_lines(metrics: Mapping[str, float], prefix: str = "label") -> Lines:
    """Return what is known of position bias; none where the labeler has no orders."""
    names = ("same_slot", "same_slot_first", "position_gap")
    same, first, gap = (Interval.read(metrics, f"{prefix}/{name}") for name in names)
    p_value = metrics.get(f"{prefix}/same_slot_p_value")
    counts = [metrics.get(f"{prefix}/same_slot_{slot}", math.nan) for slot in (1, 2)]
    lines = {
        "same slot won in both orders": same and same.percent(),
        "of these, slot 1": first and first.percent(),
        "pairs won by slot 1 / slot 2": first and " / ".join(f"{n:,.0f}" for n in counts),
        "two-sided binomial p of 'either slot as often'": None
        if p_value is None
        else f"{p_value:.2g}",
        "mean difference of the probability between the orders": gap and gap.number(".3g"),
    }
    return [(text, value) for text, value in lines.items() if value] if same else []


def cost_lines(metrics: Mapping[str, float], prefix: str = "label/cost") -> Lines:
    """Return what a label cost beside what a person's would; none where nothing was labeled."""
    names = ("tokens_read", "tokens_written", "words", "ai_usd", "human_usd")
    read, written, words, ai, human = (
        Interval.read(metrics, f"{prefix}/{name}_per_pair") for name in names
    )
    cheaper = metrics.get(f"{prefix}/times_cheaper")
    lines = {
        "tokens read a pair": read and read.number(".3g"),
        "tokens written a pair": written and written.number(".3g"),
        "AI label, $ a pair": _dollars(ai),
        "words a person would read for a pair": words and words.number(".3g"),
        "person's label at $0.11 per 50 words, $ a pair": _dollars(human),
        "times cheaper": None if cheaper is None else factor(cheaper),
    }
    return [(text, value) for text, value in lines.items() if value] if human else []


def _dollars(found: Interval | None) -> str:
    """Write an amount; a model of one's own is charged nothing, which is not the same as free."""
    if found is None:
        return "not measured"
    return found.number(".3g") if found.value else "nothing charged (machine time is not priced)"


def label_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Say what of the labels a reader should know before believing what was trained on them."""
    found = []
    for prefix in ("label", "labeler"):
        same = metrics.get(f"{prefix}/same_slot")
        if same is not None and same > MAX_SAME_SLOT:
            found.append(
                f"The same slot won in both orders in {100 * same:.0f} % of pairs: the labels say "
                "more about slots than about responses."
            )
            break
    asked = metrics.get("label/count/asked", 0.0)
    missing = sum(metrics.get(f"label/count/{kind}", 0.0) for kind in UNUSABLE)
    if asked and missing / asked > MAX_UNUSABLE:
        found.append(
            f"{missing:.0f} of {asked:.0f} pairs ({100 * missing / asked:.0f} %) have no label: what "
            "was trained on is what the labeler could judge."
        )
    return found
