"""The report's section on labels: what became of the pairs, position bias, cost beside people's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlaif_pl.reporting.measures import measure
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


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table."""

    text: str  # what was measured
    value: str  # the figure, with its interval where it has one


def outcome_lines(metrics: Mapping[str, float], prefix: str = "label") -> list[Line]:
    """Return pairs by what became of them, and the labels' shares; none where nothing was labeled."""
    lines = [
        Line(text, f"{metrics[key]:,.0f}")
        for kind, text in KINDS.items()
        if (key := f"{prefix}/count/{kind}") in metrics and (metrics[key] or kind == "decided")
    ]
    shares = ((text, measure(metrics, f"{prefix}/{name}")) for name, text in SHARES.items())
    return lines + [Line(text, found.percent()) for text, found in shares if found is not None]


def position_lines(metrics: Mapping[str, float], prefix: str = "label") -> list[Line]:
    """Return what is known of position bias; none where the labeler has no orders."""
    same = measure(metrics, f"{prefix}/same_slot")
    if same is None:
        return []
    lines = [Line("same slot won in both orders", same.percent())]
    first = measure(metrics, f"{prefix}/same_slot_first")
    if first is not None:
        counts = [metrics.get(f"{prefix}/same_slot_{slot}", math.nan) for slot in (1, 2)]
        lines.append(Line("of these, slot 1", first.percent()))
        lines.append(Line("pairs won by slot 1 / slot 2", " / ".join(f"{n:,.0f}" for n in counts)))
    p_value = metrics.get(f"{prefix}/same_slot_p_value")
    if p_value is not None:
        lines.append(Line("two-sided binomial p of 'either slot as often'", f"{p_value:.2g}"))
    gap = measure(metrics, f"{prefix}/position_gap")
    if gap is not None:
        lines.append(
            Line("mean difference of the probability between the orders", gap.number(".3g"))
        )
    return lines


def cost_lines(metrics: Mapping[str, float], prefix: str = "label/cost") -> list[Line]:
    """Return what a label cost beside what a person's would; none where nothing was labeled."""
    human = measure(metrics, f"{prefix}/human_usd_per_pair")
    if human is None:
        return []
    lines = []
    for name, text in (("read", "tokens read a pair"), ("written", "tokens written a pair")):
        found = measure(metrics, f"{prefix}/tokens_{name}_per_pair")
        if found is not None:
            lines.append(Line(text, found.number(".3g")))
    ai = measure(metrics, f"{prefix}/ai_usd_per_pair")
    lines.append(Line("AI label, $ a pair", _dollars(ai)))
    words = measure(metrics, f"{prefix}/words_per_pair")
    if words is not None:
        lines.append(Line("words a person would read for a pair", words.number(".3g")))
    lines.append(Line("person's label at $0.11 per 50 words, $ a pair", _dollars(human)))
    cheaper = metrics.get(f"{prefix}/times_cheaper")
    if cheaper is not None:
        lines.append(
            Line("times cheaper", f"{cheaper:,.0f}" if cheaper >= 100 else f"{cheaper:.3g}")
        )
    return lines


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
