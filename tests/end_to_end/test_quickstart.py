"""The whole chain, prompts to report, on a tiny model; and the numbers an experiment must hold."""

import json
import math

import pytest

from rlaif_pl.pipeline import run

INTERVALS = (
    "labeler/alignment",
    "labeler/length_baseline",
    "labeler/gain_over_length",
    "labeler/length_matched",
    "a2c/reward_gain",
    "winrate/policy_vs_sft",
)
NUMBERS = (
    "reward/pair_accuracy",
    "reward/ece",
    "a2c/reward_before",
    "a2c/reward_after",
    "a2c/kl",
    "a2c/length_ratio",
    "a2c/copied_4grams",
    "winrate/policy_vs_sft_independent",
    "winrate/policy_vs_reference",
)


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_the_quickstart_chain_ends_with_a_report_and_every_number(
    experiment, launch, tmp_path, capsys
):
    file, out = experiment(), tmp_path / "run"
    assert run(file, launch=launch) == 0
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    names = [*NUMBERS, *INTERVALS, *(f"{n}_{end}" for n in INTERVALS for end in ("low", "high"))]
    assert not [name for name in names if name not in metrics]
    unmeasured = [name for name in names if metrics[name] is None]
    # eight gold pairs need not hold a pair of equal lengths
    assert all(name.startswith("labeler/length_matched") for name in unmeasured)
    assert all(math.isfinite(metrics[name]) for name in names if name not in unmeasured)
    gain = metrics["a2c/reward_after"] - metrics["a2c/reward_before"]
    assert metrics["a2c/reward_gain"] == pytest.approx(gain, abs=1e-6)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page or "data:image" in page
    for stage in ("sft", "reward", "a2c"):
        assert (out / stage / "history.csv").is_file()
        assert (out / stage / "checkpoints" / "last.ckpt").is_file()
    assert (out / "a2c" / "samples.csv").is_file()
    capsys.readouterr()
    assert run(file, launch=launch) == 0
    assert capsys.readouterr().out.count("skipped, finished in") == 9
