"""Keys stay where they are, nothing is unpickled, names do not lead out, markup stays text."""

import ast
import json
import re
from pathlib import Path

import pytest
import wandb
import yaml

import rlaif_pl
from rlaif_pl.cli import main as cli
from rlaif_pl.data.disk import file_named
from rlaif_pl.reporting import write_report

PACKAGE = Path(rlaif_pl.__file__).parent
KEYS = {
    "OPENAI_API_KEY": "marked-openai-0123456789abcdef0123456789abcdef",
    "WANDB_API_KEY": "5e" * 20,
    "HF_TOKEN": "hf_markedhuggingface0123456789",
    "ANOTHER_KEY": "marked-another-fedcba9876543210",
}
CALLBACKS = ("RunLoggers", "RunMetadata", "MetricsFile", "SampleTable", "ExportModel")


@pytest.fixture
def keys(monkeypatch, tmp_path):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")  # a key alone would go online
    (tmp_path / "home").mkdir()
    yield
    wandb.finish()  # a run that stays open takes the logs of the process's next fit


def files_with_keys(folder: Path) -> list[str]:
    """Name files that hold a key, as text or in UTF-16."""
    marks = [value.encode(code) for value in KEYS.values() for code in ("utf-8", "utf-16-le")]
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return [str(p) for p in found if any(mark in p.read_bytes() for mark in marks)]


@pytest.mark.filterwarnings("ignore")
def test_keys_are_in_no_file_and_no_word_of_a_run(
    keys, tmp_path, tiny_model_folder, data_files, capfd
):
    out = tmp_path / "run"
    fit = {
        "trainer": {
            "default_root_dir": str(out / "sft"),
            "max_steps": 1,
            "accelerator": "cpu",
            "logger": False,
            "limit_val_batches": 0,
            "callbacks": [
                {"class_path": f"rlaif_pl.training.callbacks.{name}"} for name in CALLBACKS
            ],
        },
        "model": {
            "class_path": "rlaif_pl.training.SFTModule",
            "init_args": {"backbone": {"name": str(tiny_model_folder), "trunk_layers": 2}},
        },
        "data": {"task": "demonstrations", "demonstrations": data_files.prompts},
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(fit))
    assert cli.main(["fit", "--config", str(tmp_path / "fit.yaml")]) == 0
    words = [
        "label",
        f"--pairs={data_files.unlabeled}",
        f"--out={out / 'label'}",
        "--labeler=rlaif_pl.labeling.PairwiseLabeler",
        "--labeler.backend=rlaif_pl.labeling.EndpointBackend",
        "--labeler.backend.base_url=http://127.0.0.1:9/v1",
        "--labeler.backend.model=m",
        "--labeler.backend.retries.max_retries=0",
        "--labeler.backend.api_key_env=ANOTHER_KEY",
    ]
    assert cli.main(words) != 0  # nobody listens there
    write_report(out)
    said = "".join(capfd.readouterr())
    assert "error: " in said
    assert not [name for name, value in KEYS.items() if value in said]
    assert list(out.rglob("*.ckpt"))
    assert list(out.rglob("run-*.wandb"))
    assert not files_with_keys(out)


def calls(name: str):
    """Yield every call of a function of that name in the package, with its place."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text if f"{name}(" in text else "")):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield (
                    f"{path.name}:{node.lineno}",
                    {k.arg: ast.unparse(k.value) for k in node.keywords},
                )


def test_nothing_is_unpickled_and_no_code_of_a_model_runs_unasked():
    found = list(calls("torch.load"))
    assert found
    assert all(options.get("weights_only") == "True" for _, options in found)
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    odd = re.compile(
        r"^(import|from) (pickle|marshal|shelve|dill|cloudpickle)\b(?! import Unpick)"
        r"|trust_remote_code(: bool)? ?= ?True|shell=True",
        re.MULTILINE,
    )
    assert not [str(path) for path, text in sources.items() if odd.search(text)]
    assert not list(calls("eval")) + list(calls("exec")) + list(calls("yaml.unsafe_load"))


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/x", "", ".x", "a\\b", "a\0b", "x" * 101, ".."]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="since it names a file in"):
        file_named(tmp_path, name, ".json")
    assert file_named(tmp_path, "policy of step 3.5", ".json").parent == tmp_path


def test_a_page_runs_nothing_that_the_data_hold(tmp_path):
    markup = "<script>alert(1)</script><img src=x onerror=alert(1)><svg onload=alert(1)>"
    stage = tmp_path / "evaluate"
    stage.mkdir()
    record = {"command": f"-m rlaif_pl {markup}", "seconds": 1.0, "time": 1, "attempts": 1}
    (stage / "done.json").write_text(json.dumps(record))
    sample = {"prompt": markup, "reference": markup, "sft": [markup], "policy": [markup]}
    rewards = {"reward_sft": [0.0], "reward_policy": [1.0]}
    (stage / "samples.jsonl").write_text(json.dumps(sample | rewards) + "\n")
    (stage / "config.yaml").write_text(f"a: {markup}\n")
    table = f"**{markup}**\n\n| {markup} |\n|---|\n| {markup} |\n\n- {markup}\n"
    (stage / "results.md").write_text(table)
    (stage / "history.csv").write_text(f'step,"{markup}"\n1,2\n2,3\n')
    (stage / "run_facts.json").write_text(json.dumps({markup: markup}))
    (stage / "metrics.json").write_text(json.dumps({markup: 1.0}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;alert(1)") > 8
    assert not re.search(r"<script|<img src=x|<svg onload", page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "script-src" not in rules  # so the first rule holds: none runs, from anywhere
    # before anything else that a browser would act on
    assert page.index("Content-Security-Policy") < page.index("<title>")
