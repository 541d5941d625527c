import json
import os
import shutil

import pytest

from rlaif_pl.cli.commands.matrix import sample
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import BackboneOptions
from rlaif_pl.rl.generate import generate
from rlaif_pl.text import Template
from rlaif_pl.types import Prompt


def options(model, data_files, *more):
    return (
        f"--policies={{sft: {{name: {model}, trunk_layers: 2}}, same: {{name: {model}}}}}",
        f"--prompts={data_files.prompts}",
        "--sft=sft",
        "--judges.independent=false",
        "--sampling.n=2",
        "--sampling.max_new_tokens=6",
        "--reporting.draws=50",
        *more,
    )


def test_a_policy_beside_itself_is_even(
    command, out, tiny_model_folder, tiny_reward_folder, data_files, monkeypatch
):
    rewards = (
        "{ours: {class_path: rlaif_pl.models.RewardModel, init_args: "
        f"{{backbone: {{name: {tiny_reward_folder}}}, frozen: true}}}}}}"
    )
    words = options(
        tiny_model_folder,
        data_files,
        f"--judges.rewards={rewards}",
        "--judges.taught={ours: [same]}",
    )
    metrics = command("evaluate matrix", *words)
    assert metrics["matrix/ours/sft_vs_same"] == 0.5
    assert metrics["matrix/rouge_l/sft_vs_same"] == 0.5
    assert abs(metrics["policy/same/kl"]) < 1e-4
    assert metrics["policy/same/copied_4grams"] == 0 < metrics["policy/same/copied_4grams_high"]
    assert metrics["policy/same/reward_ours"] == metrics["policy/sft/reward_ours"]
    for name in ("results.md", "matrix.csv", "win_matrix.png", "samples.jsonl"):
        assert (out / name).is_file()
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert rows[0]["sft"] == rows[0]["same"]
    # sampled policies are not sampled again
    monkeypatch.setattr("rlaif_pl.cli.commands.matrix.generate", None)
    assert command("evaluate matrix", *words)["matrix/ours/sft_vs_same"] == 0.5
    # texts of a sensitive source are concealed
    assert command("evaluate matrix", *words, "--prompts.sensitive=true")
    lines = (out / "samples.jsonl").read_text().splitlines()
    assert all("not shown]" in json.loads(line)["prompt"] for line in lines)
    kept = (out / "sample_texts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == rows


def test_references_without_a_word_have_no_judge_by_likeness(
    command, tmp_path, tiny_model_folder, tiny_reward_folder, data_files
):
    rows = [{"prompt": f"post {n}", "reference": "..."} for n in range(2)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = f"{{backbone: {{name: {tiny_reward_folder}}}, frozen: true}}"
    ours = f"{{ours: {{class_path: rlaif_pl.models.RewardModel, init_args: {reward}}}}}"
    more = (f"--judges.rewards={ours}", f"--prompts={prompts}")
    metrics = command("evaluate matrix", *options(tiny_model_folder, data_files, *more))
    assert metrics["matrix/ours/sft_vs_same"] == 0.5
    assert not any("rouge" in name for name in metrics)


def test_only_what_changed_is_sampled_again(tmp_path, tiny_model_folder, monkeypatch):
    drawn = []

    def counted(*args, title, **options):
        drawn.append(title.removeprefix("sampling "))
        return generate(*args, title=title, **options)

    monkeypatch.setattr("rlaif_pl.cli.commands.matrix.generate", counted)
    folder = tmp_path / "policy"
    shutil.copytree(tiny_model_folder, folder)
    options, prompts = BackboneOptions(str(folder)), [Prompt("a post", "g")]

    def draw(name, template=None, **settings):
        params = SamplingParams(n=1, max_new_tokens=4, **settings)
        return sample(name, options, prompts, params, 4, template, None, tmp_path / "out")

    first = draw("a")
    os.utime(folder / "config.json", (1, 1))
    assert draw("a") == first
    draw("b")
    assert draw("a") == first
    assert drawn == ["a", "b"]
    draw("a", seed=1)
    draw("b", template=Template(prompt="{prompt}!"))
    assert drawn == ["a", "b", "a", "b"]
    assert sorted(path.name for path in (tmp_path / "out" / "replaced").iterdir()) == ["a-1", "b-1"]
    for name in ("../x", ".x", "a/b"):
        with pytest.raises(ValueError, match="expected a name of 1 to 100 characters"):
            draw(name)


def test_the_best_of_n_is_one_more_policy(
    command, out, tiny_model_folder, tiny_reward_folder, data_files
):
    rewards = (
        "{ours: {class_path: rlaif_pl.models.RewardModel, init_args: "
        f"{{backbone: {{name: {tiny_reward_folder}}}, frozen: true}}}}}}"
    )
    best = "--best_of={best: {policy: sft, reward: ours, n: 3}}"
    words = options(tiny_model_folder, data_files, f"--judges.rewards={rewards}", best)
    metrics = command("evaluate matrix", *words)
    assert metrics["policy/best/reward_ours"] > metrics["policy/sft/reward_ours"]
    assert metrics["matrix/ours/sft_vs_best"] < 0.5
    assert "policy/best/kl" not in metrics
    drawn = json.loads((out / "sampled" / "best" / "responses.json").read_text())["texts"]
    for line in (out / "samples.jsonl").read_text().splitlines():
        texts = json.loads(line)["best"]
        assert len(texts) == 2
        assert any(set(texts) <= set(row) for row in drawn)


def test_the_best_of_what_is_not_there_is_refused(command, tiny_model_folder, data_files, capsys):
    best = "--best_of={best: {policy: sft, reward: gone}}"
    command("evaluate matrix", *options(tiny_model_folder, data_files, best), status=1)
    assert "best_of.best" in capsys.readouterr().err


def test_an_unknown_sft_policy_is_named(command, tiny_model_folder, data_files, capsys):
    words = options(tiny_model_folder, data_files, "--sft=gone")
    command("evaluate matrix", *words, status=1)
    assert "'gone'" in capsys.readouterr().err


def test_a_name_that_no_folder_can_have_is_refused_before_weights_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr("rlaif_pl.cli.commands.matrix.fingerprint_of", None)
    with pytest.raises(ValueError, match="since it names a file in sampled"):
        sample("a/b", BackboneOptions("nowhere"), [], SamplingParams(), 4, None, None, tmp_path)
