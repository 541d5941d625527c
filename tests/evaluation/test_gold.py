"""A figure says whose verdicts it rests on."""

import pytest
import torch
from rich.console import Console

from rlaif_pl.data.sources import load_preferences
from rlaif_pl.evaluation.pairs import judge_counts, judge_metrics, judges_in, judges_named
from rlaif_pl.evaluation.reward_accuracy import measure_reward
from rlaif_pl.reporting.run import Run
from rlaif_pl.reporting.sections import metric_rows
from rlaif_pl.reporting.verdict import judge
from rlaif_pl.types import Preference


class Longer:
    def score(self, prompts, responses):  # noqa: ARG002 (the protocol gives both)

        return torch.tensor([float(len(text)) for text in responses])


def pair(source, p_first=1.0):
    return Preference("p", "longer", "short", "g", p_first, source=source)


def test_judges_are_named_the_most_frequent_first():
    pairs = [pair("human"), pair("synthetic"), pair("synthetic"), pair("ai"), pair(None)]
    counts = judge_counts([*pairs, pair("ai"), pair("ai"), pair("human", None)])
    assert counts == {"human": 1, "synthetic": 2, "ai": 3, "unknown": 1}
    named = "an AI labeler and synthetic verdicts and people and unknown judges"
    assert judges_named(counts) == named
    assert judges_in(judge_metrics(counts, "reward") | {"labeler/n": 7.0}, "reward") == named


def test_metrics_of_an_older_run_are_of_people():
    assert judges_in({"reward/pair_accuracy": 0.5}, "reward") == "people"


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("tiny_tldr/final", "reading"),
        ("tiny_tldr/faults_final", "synthetic"),
        ("tiny_requests/dev", "synthetic"),
    ],
)
def test_pairs_that_come_with_the_package_are_not_peoples(name, judge):
    assert set(judge_counts(load_preferences(name).rows)) == {judge}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("synthetic", "synthetic verdicts"),
        ("reading", "a language model's blind reading"),
        ("human", "people"),
    ],
)
def test_tables_and_report_name_them(source, name):
    console = Console(record=True, width=100)
    report = measure_reward(Longer(), [pair(source)])
    report.render(console)
    assert f"Reward beside {name}" in console.export_text()
    metrics = report.to_metrics() | {"labeler/alignment": 0.7, f"labeler/verdicts_by_{source}": 3.0}
    run = Run("run", metrics, [], [], [], [], [])
    meanings = {row.name: row.meaning for row in metric_rows(run)}
    assert meanings["labeler/alignment"] == f"labeler agrees with {name}"
    assert meanings["reward/pair_accuracy"] == f"reward model agrees with {name} on held-out pairs"
    verdict = judge(run)
    said = " ".join(finding.text for finding in verdict.findings)
    assert f"The labeler agrees with {name} in" in said
    assert f"The reward model agrees with {name} in" in said
