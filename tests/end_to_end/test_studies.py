"""Every study from its own file, on the tiny model and a few rows; each ends with its page and plot."""

import json

import pytest
import yaml

from rlaif_pl.config_paths import config_paths
from rlaif_pl.data.sources import load_prompts
from rlaif_pl.pipeline import run

STUDIES = config_paths() / "studies"
TINY = {
    "trunk_layers": 2,
    "num_layers": None,
    "max_rationale_tokens": 4,
    "max_response_tokens": 16,
    "max_new_tokens": 4,
    "n": 2,
    "batch_size": 4,
    "draws": 30,
    "limit": 6,
    "head": 2,
    "top": 1,
    "folds": 2,
    "subsets": 2,
    "sizes": [4, 6],
}
FIT = {
    "trainer.max_steps": 1,
    "trainer.max_epochs": -1,
    "trainer.accelerator": "cpu",
    "trainer.limit_val_batches": 0,
    "trainer.enable_progress_bar": False,
    "data.validation": None,
}
ROWS = 10


@pytest.fixture
def comparisons(tmp_path):
    """Write a few comparisons in OpenAI's form: a summary against the start of its post."""
    folder = tmp_path / "real" / "tldr_comparisons"
    folder.mkdir(parents=True)
    rows = []
    for n, post in enumerate(load_prompts("tiny_tldr/train")[:ROWS]):
        text = " ".join(post.text.split()[:12])
        texts = [post.reference, text[:20]]
        confidence = (1, 8, 3, 6)[n % 4]
        rows.append(
            {
                "info": {"id": post.group, "post": text, "title": "t", "subreddit": "s"},
                "summaries": [{"text": t, "policy": "x"} for t in texts],
                "choice": int(confidence > 5),
                "worker": "w",
                "extra": {"confidence": confidence},
            }
        )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "batch13.json").write_text(text)
    return folder.parent


def without_rest(stages):
    """Leave ReST out, which starts processes of its own (see test_methods); SFT stands in for it."""
    stages[:] = [stage for stage in stages if stage["command"] != "rest"]
    last = stages[-2]  # a report follows
    if "rest" in last["needs"]:
        last["needs"].remove("rest")
        last["set"]["policies"]["rest"]["name"] = "${out}/sft/policy"


@pytest.fixture
def shrunk(tmp_path, tiny_model_folder, tiny_reward_folder, data_files):
    """Return a writer of a study with tiny models and sizes."""

    whole = {"smollm2-135m": str(tiny_model_folder), "tiny_tldr/final": data_files.prompts}
    whole |= {"tiny_tldr/train": data_files.prompts}
    whole |= {f"runs/quickstart/{of}/policy": str(tiny_model_folder) for of in ("sft", "a2c")}
    whole["runs/quickstart/reward/reward_model"] = str(tiny_reward_folder)

    def shrink(value, key=""):
        if key in TINY and not isinstance(value, dict):
            return TINY[key]
        if key == "cot" and isinstance(value, dict):
            return {**value, "max_tokens": 4}
        if isinstance(value, dict):
            return {name: shrink(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [shrink(item) for item in value]
        return whole.get(value, value) if isinstance(value, str) else value

    def write(name):
        content = shrink(yaml.safe_load((STUDIES / name).read_text(encoding="utf-8")))
        for stage in content["stages"]:
            if "config" in stage:
                source = (STUDIES / stage["config"]).read_text(encoding="utf-8")
                own = tmp_path / f"{stage['name']}.yaml"
                own.write_text(yaml.safe_dump(shrink(yaml.safe_load(source))), encoding="utf-8")
                stage["config"] = str(own)
            if stage["command"] == "fit":
                stage["set"] = FIT | stage["set"]
        content["out"] = str(tmp_path / "run")
        without_rest(content["stages"])
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("reward_sources.yaml", {"rewards": "reward_sources.png", "curve": "reward_curve.png"}),
        ("labeler_size.yaml", {"sizes": "labeler_size.png"}),
        ("label_cost.yaml", {"cost": "label_cost.png"}),
        ("policies.yaml", {"matrix": "win_matrix.png"}),
        ("ai_labels.yaml", {"matrix": "win_matrix.png"}),
    ],
)
def test_study_runs_and_goes_on(
    name, made, shrunk, comparisons, launch, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RLAIF_PL_DATA", str(comparisons))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    file, out = shrunk(name), tmp_path / "run"
    assert run(file, launch=launch) == 0
    for stage, plot in made.items():
        assert (out / stage / plot).read_bytes()[:4] == b"\x89PNG"
        assert "| " in (out / stage / "results.md").read_text(encoding="utf-8")
        rows = next((out / stage).glob("*.csv")).read_text(encoding="utf-8")
        assert rows.count("\n") > 1
        assert json.loads((out / stage / "metrics.json").read_text(encoding="utf-8"))
        assert f"{stage}/" in (out / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    last = list(made)[-1]
    assert run(file, launch=launch, force=[last]) == 0  # the others are kept
    said = capsys.readouterr().out
    assert "skipped, finished in" in said
    assert (out / last / "results.md").is_file()
