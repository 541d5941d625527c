"""A run folder with every file a plain report reads, and a page taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlaif_pl.reporting import write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}
METRICS = {
    "labeler/alignment": 0.76,
    "labeler/length_baseline": 0.51,
    "labeler/gain_over_length": 0.25,
    "labeler/length_matched": 0.71,
    "reward/pair_accuracy": 0.69,
    "reward/ece": 0.08,
    "a2c/reward_before": -0.12,
    "a2c/reward_after": 0.21,
    "a2c/reward_gain": 0.33,
    "a2c/kl": 2.1,
    "a2c/length_ratio": 0.78,
    "a2c/copied_4grams": 0.12,
    "sft/copied_4grams": 0.10,
    "winrate/policy_vs_sft": 0.66,
    "winrate/policy_vs_sft_independent": 0.53,
    "winrate/policy_vs_reference": 0.35,
}
WITH_INTERVAL = [name for name in METRICS if name not in ("reward/ece", "a2c/kl")]


class Page(HTMLParser):
    """Checks that tags close in order; collects sections, identifiers, plots, images and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sections: dict[str, str] = {}
        self.plots: list[str] = []
        self.outside: list[str] = []
        self.images: list[str] = []
        self.scripts = 0
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "section":
            self.section = attributes["id"]
            self.sections[self.section] = ""
        if tag == "svg":
            self.plots.append(self.section)
        self.scripts += tag == "script"
        places = [v for k, v in attrs if k in ("src", "href", "xlink:href") and v[0] != "#"]
        self.images += [v for v in places if v.startswith("data:image/")]
        self.outside += [v for v in places if not v.startswith("data:image/")]

    def handle_startendtag(self, _tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.section:
            self.sections[self.section] += data


def metrics_with_intervals() -> dict[str, float]:
    """Each estimate with limits 0.07 to both sides."""
    metrics = dict(METRICS)
    for name in WITH_INTERVAL:
        metrics[f"{name}_low"] = METRICS[name] - 0.07
        metrics[f"{name}_high"] = METRICS[name] + 0.07
    return metrics


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def metrics() -> dict[str, float]:
    return metrics_with_intervals()


@pytest.fixture
def run_dir(tmp_path) -> Path:
    out = tmp_path / "quick-run"
    write(out / "metrics.json", metrics_with_intervals())
    for number, (stage, seconds) in enumerate((("sft", 65.0), ("a2c", 3725.0), ("evaluate", 4.2))):
        record = {"command": f"-m rlaif_pl {stage}", "seconds": seconds, "time": number}
        write(out / stage / "done.json", {**record, "attempts": 1 + number, "fingerprint": {}})
        write(out / stage / "config.yaml", f"name: {stage}\nbeta: <0.05>\n")
    facts = {"torch": "2.13", "ops": {"gae": "compiled"}, "parameters": 134515008}
    write(out / "sft/run_facts.json", {**facts, "seed": 1})
    write(out / "a2c/run_facts.json", {**facts, "seed": 2})
    rows = [f"{step},{0.01 * step},{0.1 * step},{20 - 0.1 * step}" for step in range(40)]
    write(out / "a2c/history.csv", "\n".join(["step,a2c/reward,a2c/kl,a2c/words", *rows]) + "\n")
    write(out / "sft/history.csv", "step,sft/train_loss,sft/val_loss\n0,3.0,\n1,2.0,2.5\n")
    rate = {"judge": "<judge>", "low": 0.59, "high": 0.73, "n": 86}
    rates = [
        {"name": "policy_vs_sft", "value": 0.66, **rate},
        {"name": "policy_vs_reference", "value": 0.5, **rate, "low": None, "high": None},
    ]
    write(out / "evaluate/win_rates.json", rates)
    bins = [{"confidence": c, "accuracy": c, "count": 5} for c in (0.2, 0.5, 0.8)]
    write(out / "evaluate/reliability.json", [*bins, {"confidence": 0, "accuracy": 0, "count": 0}])
    sample = {
        "prompt": "A post <script>alert(1)</script> & more",
        "reference": None,
        "sft": ["before"],
        "policy": ["after"],
        "reward_sft": [-0.25],
        "reward_policy": [0.5],
    }
    lines = [json.dumps({**sample, "prompt": f"{sample['prompt']} {n}"}) for n in range(12)]
    write(out / "evaluate/samples.jsonl", "\n".join(lines) + "\n")
    return out


@pytest.fixture
def page_of() -> Callable[[Path], Page]:
    """Write the report of a run folder and take it apart."""
    return lambda folder: Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture
def stage(tmp_path) -> Callable[..., Path]:
    """Make the folder of a finished stage of a run; returns it."""

    def make(name: str, command: str = "fit", time: float = 1.0) -> Path:
        record = {"command": f"-m rlaif_pl {command} --config x", "seconds": 1.0, "time": time}
        write(tmp_path / "run" / name / "done.json", record)
        return tmp_path / "run" / name

    return make
