"""What the command line says to mistakes, and how it helps."""

import subprocess
import sys

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli import registry
from rlaif_pl.cli.commands.parsers import PlainParser
from rlaif_pl.cli.commands.refusals import refusal

FIT = {
    "model": {
        "class_path": "rlaif_pl.training.SFTModule",
        "init_args": {"backbone": {"name": "x", "trunk_layers": 2}},
    },
    "data": {"task": "demonstrations"},
    "trainer": {"max_steps": 1},
}
LABELER = "rlaif_pl.labeling.PairwiseLabeler"


@pytest.fixture
def refused(capsys):
    """Give a wrong command line; returns what is said, which is short."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") <= 3
        assert "--help" in said or ".help" in said
        return said

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["sample", "--sampling.temprature", "1"],
            "unknown option --sampling.temprature; did you mean --sampling.temperature?",
        ),
        (["report", "--run_dri=x"], "unknown option --run_dri; did you mean --run_dir?"),
        (["run", "a", "--frce", "b"], "unknown option --frce; did you mean --force"),
        (["report"], "expected --run_dir, got none"),
        (["run"], "expected file, got none"),
        (["report", "--run_dir"], "expected a value after --run_dir, got none"),
        (["run", "x", "--seed", "abc"], "expected --seed to be int, got 'abc'"),
        (["label", "--pairs=x", "--out=y", "--chunk=abc"], "expected --chunk to be int, got 'abc'"),
        (
            ["label", "--pairs=x", "--out=y", "--gate.action=wrn"],
            "expected --gate.action to be warn or stop or off, got 'wrn'; did you mean warn?",
        ),
        (
            ["label", "--pairs=x", "--out=y", "--labeler=pairwise", "--labeler.bakend=x"],
            "unknown option bakend of PairwiseLabeler; did you mean backend?",
        ),
        (
            ["label", "--pairs.nme=x", "--out=y"],
            "unknown option nme of DataSource; did you mean name?",
        ),
        (
            ["sample", "--policy=FOLDER", "--prompts=x", "--out=y"],
            "to be a mapping of keys, got 'FOLDER'; did you mean --policy.name FOLDER?",
        ),
        (
            ["evaluate", "reward", "--reward=rlaif_pl.rl.losses.value_los", "--gold=x", "--out=y"],
            "rlaif_pl.rl.losses has no value_los; did you mean rlaif_pl.rl.losses.value_loss?",
        ),
        (
            ["evaluate", "reward", "--reward=no_module.mine", "--gold=x", "--out=y"],
            "got 'no_module.mine': there is no module no_module",
        ),
        (
            ["evaluate", "reward", "--reward.backbone.name=x", "--data=x", "--out=y"],
            "expected a class for --reward before its key backbone.name, got none",
        ),
        (
            ["fit", "--config=quickstart/sft.yaml", "--trainer.callbacks=EarlyStopping"],
            "expected monitor of EarlyStopping, got none; give it under init_args",
        ),
        (["fit", "--data.prefrences=x"], "did you mean --data.preferences?\n"),
        (["label", "--pairs=x", "--out=y", "z"], "expected options after python -m rlaif_pl label"),
    ],
)
def test_a_wrong_option_is_answered_in_a_line(refused, words, expected):
    assert expected in refused(*words)


@pytest.mark.parametrize(
    ("command", "content", "expected"),
    [
        ("label", {"chnk": 3}, "unknown key chnk; did you mean chunk?"),
        ("label", {"chunk": "abc"}, "expected chunk to be int, got 'abc'"),
        ("sample", {"sampling": {"temprature": 1}}, "did you mean sampling.temperature?"),
        (
            "label",
            {"labeler": {"class_path": LABELER, "init_args": {"bakend": "x"}}},
            "unknown key bakend of PairwiseLabeler; did you mean backend?",
        ),
        (
            "fit",
            {"trainer": {"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger"}}},
            "expected save_dir of CSVLogger, got none; give it under init_args",
        ),
        ("sample", {"sampling": "hot"}, "expected sampling to be a mapping of keys, got 'hot'"),
        ("fit", {"trainer": {"max_stepz": 1}}, "unknown key trainer.max_stepz; did you mean"),
        ("fit", {"trainer": {"max_steps": "x"}}, "expected trainer.max_steps to be int, got 'x'"),
        (
            "fit",
            {"model": {**FIT["model"], "init_args": {"backbone": {"trunk_layer": 3}}}},
            "unknown key backbone.trunk_layer of SFTModule; did you mean backbone.trunk_layers",
        ),
        (
            "fit",
            {"model": {**FIT["model"], "init_args": {"backbone": "x"}}},
            "expected backbone of SFTModule to be a mapping of keys, got 'x'; did you mean",
        ),
        (
            "fit",
            {"model": {**FIT["model"], "class_path": "rlaif_pl.training.SFTModul"}},
            "rlaif_pl.training has no SFTModul; did you mean rlaif_pl.training.SFTModule?",
        ),
        (
            "fit",
            {"trainer": {"callbacks": [{"class_path": "rlaif_pl.training.callbacks.ExportModl"}]}},
            "did you mean rlaif_pl.training.callbacks.ExportModel?",
        ),
        ("fit", {"default_callbacks": {"of": ["all"]}}, "did you mean default_callbacks.off?"),
    ],
)
def test_a_wrong_key_of_a_config_is_named_with_its_file(
    refused, tmp_path, command, content, expected
):
    path = tmp_path / "mine.yaml"
    base = {"fit": FIT, "label": {"pairs": "x", "out": "y"}, "sample": {"prompts": "x", "out": "y"}}
    path.write_text(yaml.safe_dump({**base[command], **content}))
    said = refused(command, "--config", path)
    assert said.startswith(f"error: {path}: ")
    assert expected in said


def test_the_first_of_two_configs_in_different_folders_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = {"class_path": "rlaif_pl.training.callbacks.Nowhere"}
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/fit.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": [callback]}})
    )
    (tmp_path / "over.yaml").write_text("trainer: {max_steps: 1}")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "shared/fit.yaml", "--config", "over.yaml"])
    assert "error: shared/fit.yaml: expected class_path to name a class" in capsys.readouterr().err


@pytest.mark.parametrize("in_config", [False, True])
def test_a_stage_names_the_file_that_is_wrong(tmp_path, capsys, in_config):
    config, file = tmp_path / "label.yaml", tmp_path / "run.yaml"
    config.write_text("pairs: x\nout: y\n" + ("chnk: 3\n" if in_config else ""))
    stage = {"name": "a", "command": "label", "config": "label.yaml"}
    stage["set"] = {} if in_config else {"chnk": 3}
    file.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "stages": [stage]}))
    assert cli.main(["run", str(file), "--check"]) == 1
    wrong = config if in_config else file
    assert (
        f"stage a: unknown key chnk; did you mean chunk? (in {wrong})\n" in capsys.readouterr().err
    )


def test_an_unknown_command_takes_six_lines_at_most(capsys):
    assert cli.main(["evaluate", "polciy"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: unknown command 'evaluate polciy'; did you mean 'evaluate policy'"
    )
    assert said.count("\n") <= 6
    assert said.endswith("(python -m rlaif_pl --help says more)\n")


def test_a_message_of_another_kind_is_told_as_it_is():
    parser = PlainParser("python -m x")
    assert refusal(parser, "something else\n  is wrong").said() == "something else is wrong"


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_every_help_is_short_and_begins_with_what_is_required(capsys):
    for command in (*registry.LIGHTNING, *registry.FUNCTIONS, "run", "completion"):
        said = help_of(capsys, *command.split())
        assert said.startswith(f"usage: python -m rlaif_pl {command}")
        assert said.count("\n") <= 45
        assert max(map(len, said.splitlines())) <= 100
        titles = [line for line in said.splitlines() if line in ("required:", "options:")]
        assert titles == sorted(titles, reverse=True)


def test_the_help_of_a_group_lists_its_keys(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sample", "--sampling.help"])
    said = capsys.readouterr().out
    assert "--sampling.temperature FLOAT" in said
    assert "--policy" not in said


def test_the_help_of_a_class_lists_its_arguments(capsys):
    with pytest.raises(SystemExit):
        cli.main(["label", "--labeler.help", LABELER])
    said = capsys.readouterr().out
    assert "--labeler.help=rlaif_pl.PairwiseLabeler" in said
    assert "--labeler.preamble base|detailed" in said


def test_the_first_help_loads_neither_torch_nor_jsonargparse():
    code = (
        "import sys; from rlaif_pl.cli.main import main; main(['--help'])\n"
        "sys.exit(len({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") <= 45


def test_the_rating_page_loads_no_torch():
    code = (
        "import sys; from rlaif_pl.cli.registry import function_of; function_of('rate')\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
