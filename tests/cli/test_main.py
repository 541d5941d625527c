"""The command line: what it says to a newcomer, to a misspelling and to a missing file."""

import errno
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rlaif_pl import __version__
from rlaif_pl.cli import main as cli
from rlaif_pl.cli import registry
from rlaif_pl.cli.commands import train
from rlaif_pl.cli.commands.train import how_to_go_on
from rlaif_pl.config_paths import config_paths, find_config
from rlaif_pl.pipeline.experiment import COMMANDS


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def fit_config(tmp_path, tiny_model_folder, data_files):
    """Write an SFT config on the tiny model; returns a function that changes it and its path."""

    def write(**changes):
        config = {
            "trainer": {
                "default_root_dir": str(tmp_path / "run"),
                "max_steps": 1,
                "accelerator": "cpu",
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            },
            "model": {
                "class_path": "rlaif_pl.training.SFTModule",
                "init_args": {"backbone": {"name": str(tiny_model_folder), "trunk_layers": 2}},
            },
            "data": {"task": "demonstrations", "demonstrations": data_files.prompts},
        }
        for key, value in changes.items():
            config[key] = {**config[key], **value}
        path = tmp_path / "fit.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    return write


def stopped(args) -> int:
    """Return the status with which the parser ended the program."""
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return stop.value.code


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: python -m rlaif_pl COMMAND" in capsys.readouterr().out


def test_the_functions_of_the_help_are_all_that_there_are():
    assert {*registry.FUNCTIONS} == {*COMMANDS, "doctor", "rate", "evaluate ratings"} - {
        *registry.LIGHTNING
    }


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_names_every_command(word, capsys):
    assert cli.main([word]) == 0
    said = capsys.readouterr().out
    for command in (*registry.LIGHTNING, *registry.FUNCTIONS, "run"):
        assert command in said


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlaif_pl {__version__}\n"


@pytest.mark.parametrize("group", registry.GROUPS)
def test_help_of_a_group_lists_its_commands(group, capsys):
    assert cli.main([group, "--help"]) == 0
    said = capsys.readouterr().out
    commands = [command for command in registry.FUNCTIONS if command.split()[0] == group]
    assert [" ".join(line.split()[:2]) for line in said.splitlines()] == commands


def test_a_misspelt_command_gets_the_nearest(capsys):
    assert cli.main(["evaluate", "alignmnt"]) == 2
    assert "did you mean 'evaluate alignment'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["fti"], ["evaluate"], ["evaluate", "all"], ["test"]])
def test_an_unknown_command_names_the_known_ones(words, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"unknown command {' '.join(words)!r}" in said
    assert "evaluate alignment" in said


@pytest.mark.parametrize("command", list(registry.FUNCTIONS))
def test_every_function_has_a_help_with_its_options(command, capsys):
    assert stopped([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"python -m rlaif_pl {command}" in said
    assert "--config" in said


def test_help_of_fit(capsys):
    assert stopped(["fit", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m rlaif_pl fit")
    assert "--data.KEY" in said
    assert "task, preferences" in said
    assert "--trainer.KEY" in said
    assert "--optimizer" not in said  # the model's own option says which
    assert stopped(["fit", "--trainer.help"]) == 0
    assert "--trainer.max_steps INT" in capsys.readouterr().out


def test_help_of_run(capsys):
    assert stopped(["run", "--help"]) == 0
    assert "--dry_run" in capsys.readouterr().out


def test_print_config_of_fit(fit_config, capsys):
    assert stopped(["fit", "--config", fit_config(), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"] == "rlaif_pl.training.SFTModule"
    assert printed["model"]["init_args"]["backbone"]["trunk_layers"] == 2
    assert printed["data"]["batch_size"] == 8


def test_print_config_of_a_function(capsys):
    assert stopped(["export", "--preferences", "x.jsonl", "--out", "y", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["preferences"], printed["out"]) == ("x.jsonl", "y")
    assert printed["min_margin"] == 0.0


def test_a_fit_from_python_says_nothing_of_no_use(fit_config, capsys, recwarn, caplog):
    assert cli.main(["fit", "--config", fit_config()]) == 0
    said = "".join([*capsys.readouterr(), caplog.text, *(str(w.message) for w in recwarn)])
    for noise in ("litlogger", "in eval mode", "LeafSpec", "args parameter", "many workers"):
        assert noise not in said


def test_a_misspelt_key_is_named(fit_config, capsys):
    path = fit_config(data={"batch_sise": 4})
    assert stopped(["fit", "--config", path]) == 2
    assert "batch_sise" in capsys.readouterr().err


def test_a_misspelt_key_below_the_model_is_named(fit_config, capsys):
    path = fit_config(model={"init_args": {"bakcbone": {"name": "x"}}})
    assert stopped(["fit", "--config", path]) == 2
    assert "bakcbone" in capsys.readouterr().err


def test_a_misspelt_key_of_a_function_is_named(tmp_path, capsys):
    (tmp_path / "export.yaml").write_text("preferences: a.jsonl\nout: b\nmin_magrin: 0.1\n")
    assert stopped(["export", "--config", str(tmp_path / "export.yaml")]) == 2
    assert "min_magrin" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing.yaml", "configs"])
@pytest.mark.parametrize("command", ["fit", "export", "run"])
def test_a_missing_config_lists_those_there_are(command, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [name] if command == "run" else ["--config", name]
    assert cli.main([command, *words]) == 1
    said = capsys.readouterr().err
    assert f"expected a config file at {name}" in said
    assert "quickstart/sft.yaml" in said


def test_a_packaged_config_is_found_by_name_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    packaged = config_paths() / "quickstart" / "sample.yaml"
    assert find_config("configs/quickstart/sample.yaml") == packaged
    for words in (["--config", "quickstart/sample.yaml"], ["--config=quickstart/sample.yaml"]):
        assert stopped(["sample", *words, "--print_config"]) == 0
        assert "tiny_tldr/train" in capsys.readouterr().out


def test_an_own_config_goes_before_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart/sft.yaml").write_text("x: 1\n")
    assert find_config("quickstart/sft.yaml").resolve() == tmp_path / "quickstart/sft.yaml"


@pytest.mark.parametrize(
    ("config", "command"),
    [("a2c", "rlaif.yaml"), ("reward", "fit --config configs/quickstart/sft")],
)
def test_a_missing_checkpoint_names_the_command_that_makes_it(
    config, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "--config", f"configs/quickstart/{config}.yaml"]) == 1
    said = capsys.readouterr().err
    assert "expected a model folder at runs/quickstart/sft/policy, there is none; make it" in said
    assert (
        f"python -m rlaif_pl {'run configs/quickstart/' if config == 'a2c' else ''}{command}"
        in said
    )


@pytest.mark.parametrize("key", ["validation", "demonstrations"])
def test_an_empty_file_never_means_no_file(key, fit_config, tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text("")
    path = fit_config(data={key: {"name": str(tmp_path / "none.jsonl")}})
    assert cli.main(["fit", "--config", path]) == 1
    assert "none.jsonl (split 'train'), it is empty" in capsys.readouterr().err
    assert cli.main(["fit", "--config", fit_config(), f"--data.{key}={tmp_path}/none.jsonl"]) == 1
    assert "none.jsonl (split 'train'), it is empty" in capsys.readouterr().err


def test_a_data_file_is_not_read_as_a_config(fit_config, tmp_path, small_prompts):
    table = pa.table(
        {
            "prompt": [prompt.text for prompt in small_prompts],
            "reference": [prompt.reference for prompt in small_prompts],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    path = fit_config(data={"demonstrations": str(tmp_path / "rows.parquet")})
    assert cli.main(["fit", "--config", path]) == 0


def test_a_missing_data_file_is_named(fit_config, tmp_path, capsys):
    path = fit_config(data={"demonstrations": str(tmp_path / "gone.jsonl")})
    assert cli.main(["fit", "--config", path]) == 1
    assert f"expected a data file at {tmp_path}/gone.jsonl" in capsys.readouterr().err


def test_a_row_without_text_names_file_and_line(fit_config, tmp_path, capsys):
    rows = '{"text": "a post", "group": "1", "reference": "r"}\n{"group": "2", "reference": "r"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    path = fit_config(data={"demonstrations": str(tmp_path / "rows.jsonl")})
    assert cli.main(["fit", "--config", path]) == 1
    said = capsys.readouterr().err
    assert "rows.jsonl:2: expected the field 'text'" in said


@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp",
        "deepspeed_stage_2",
        "lightning.pytorch.strategies.FSDPStrategy",
    ],
)
def test_fsdp1_and_deepspeed_are_refused_with_the_way_out(strategy, fit_config, capsys):
    assert cli.main(["fit", "--config", fit_config(trainer={"strategy": strategy})]) == 1
    said = capsys.readouterr().err
    assert "expected a trainer.strategy of auto, ddp or lightning.pytorch.strategies.Model" in said
    assert "train adapters (lora)" in said


@pytest.mark.parametrize("more", [[], ["--trainer.strategy.init_args.tensor_parallel_size=1"]])
def test_fsdp2_is_told_the_sizes_to_give(more, fit_config, capsys):
    path = "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"
    assert cli.main(["fit", "--config", fit_config(), path, *more]) == 1
    assert "and tensor_parallel_size: 1 in trainer.strategy.init_args" in capsys.readouterr().err


def test_a_strategy_may_be_the_path_of_a_class(fit_config, capsys):
    path = "--trainer.strategy=lightning.pytorch.strategies.SingleDeviceStrategy"
    device = "--trainer.strategy.init_args.device=cpu"
    assert cli.main(["fit", "--config", fit_config(), path]) == 0
    assert cli.main(["fit", "--config", fit_config(), path, device]) == 0


def test_an_interrupt_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_function", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "doctor was interrupted\n" in capsys.readouterr().err
    assert cli.main(["label"]) == 130
    assert "label was interrupted; the same command goes on" in capsys.readouterr().err


def test_a_command_says_where_its_files_are(monkeypatch, capsys, tmp_path):
    def made(out: str, device: str = "cpu") -> int:
        return 0

    monkeypatch.setattr(cli, "function_of", lambda _: made)
    assert cli.main(["sample", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"sample: written to {tmp_path}\n"
    assert cli.main(["export", "--out", str(tmp_path)]) == 0  # says so itself
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("stop", "status"), [(KeyboardInterrupt, 128 + signal.SIGINT), (SIGTERMException, 143)]
)
def test_an_interrupted_fit_says_how_it_goes_on(fit_config, monkeypatch, caplog, stop, status):
    def interrupted(*_):
        raise stop

    monkeypatch.setattr("rlaif_pl.training.SFTModule.training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)  # Lightning ignores it from then on
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["fit", "--config", fit_config()])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == status
    assert "before its first checkpoint; the same command begins anew" in caplog.text
    assert "--ckpt_path a/last.ckpt" in how_to_go_on("a/last.ckpt")


def test_a_try_leaves_the_model_and_the_metrics_of_a_fit(fit_config, tmp_path):
    assert cli.main(["fit", "--config", fit_config()]) == 0
    kept = [tmp_path / "run" / name for name in ("policy/model.safetensors", "metrics.json")]
    before = [path.read_bytes() for path in kept]
    words = ["--trainer.fast_dev_run=true", "--seed_everything=7"]
    assert cli.main(["fit", "--config", fit_config(), *words]) == 0
    assert [path.read_bytes() for path in kept] == before


def test_one_fit_works_in_a_folder(fit_config, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(train, "PATIENCE", 0.0)
    (tmp_path / "run").mkdir()
    lock = train.held_alone(tmp_path / "run")
    try:
        assert cli.main(["fit", "--config", fit_config()]) == 1
    finally:
        lock.release()
    assert "no other fit works in" in capsys.readouterr().err

    def refused(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")  # as of a network's file system

    monkeypatch.setattr(train.FileLock, "acquire", refused)
    with pytest.warns(UserWarning, match="run has no locks: no other fit may work there"):
        assert cli.main(["fit", "--config", fit_config()]) == 0


def test_a_device_that_is_not_there_is_explained(fit_config, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert cli.main(["fit", "--config", fit_config(), "--trainer.accelerator=gpu"]) == 1
    said = capsys.readouterr().err
    assert "No supported gpu backend" in said
    assert "rlaif_pl doctor" in said


def test_a_damaged_checkpoint_is_explained(fit_config, tmp_path, capsys):
    (tmp_path / "last.ckpt").write_text("nonsense")
    words = ["fit", "--config", fit_config(), f"--ckpt_path={tmp_path / 'last.ckpt'}"]
    assert cli.main(words) == 1
    assert "expected a checkpoint of Lightning" in capsys.readouterr().err


def test_what_is_wrong_with_a_value_is_said_without_the_whole_config(fit_config, capsys):
    words = ["fit", "--config", fit_config(), "--model.max_response_tokens=1"]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "error: expected max_response_tokens of at least 2 (a token and EOS), got 1\n" in said
    assert "Given value" not in said


def test_a_module_refuses_data_of_another_kind(fit_config, data_files, capsys):
    words = ["fit", "--config", fit_config(), "--data.task=prompts"]
    assert cli.main([*words, f"--data.prompts={data_files.prompts}"]) == 1
    assert (
        "expected data.task to be 'demonstrations' for SFTModule, got 'prompts'"
        in capsys.readouterr().err
    )


def test_a_module_that_predicts_nothing_says_so(fit_config, capsys):
    assert cli.main(["predict", "--config", fit_config()]) == 1
    assert "expected a LabelingModule for predict, got SFTModule" in capsys.readouterr().err


def test_the_traceback_is_a_variable_away(fit_config, tmp_path, monkeypatch, capsys):
    path = fit_config(data={"demonstrations": str(tmp_path / "gone.jsonl")})
    assert cli.main(["fit", "--config", path]) == 1
    assert "RLAIF_PL_TRACEBACK=1" in capsys.readouterr().err
    monkeypatch.setenv("RLAIF_PL_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["fit", "--config", path])


OWN = """
from lightning.pytorch import Callback


class Picky(Callback):
    def on_train_batch_end(self, *_):
        raise ValueError("no such row")
"""


def test_an_error_in_a_user_s_own_code_comes_with_its_place(
    fit_config, tmp_path, capsys, monkeypatch
):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = fit_config(trainer={"callbacks": [{"class_path": "own.Picky"}]})
    assert cli.main(["fit", "--config", path]) == 1
    said = capsys.readouterr().err
    assert f'File "{tmp_path / "own.py"}", line 7, in on_train_batch_end' in said
    assert said.endswith("error: no such row\n")


def test_an_error_that_says_what_to_do_comes_alone(fit_config, tmp_path, capsys):
    path = fit_config(data={"demonstrations": str(tmp_path / "gone.jsonl")})
    assert cli.main(["fit", "--config", path]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.endswith("\n(RLAIF_PL_TRACEBACK=1 shows where)\n")


def test_fit_without_a_config_says_what_it_trains(
    tmp_path, monkeypatch, capsys, tiny_model_folder, data_files
):
    monkeypatch.chdir(tmp_path)
    small = [
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        f"--model.init_args.reward.init_args.backbone.name={tiny_model_folder}",
        "--model.init_args.reward.init_args.backbone.trunk_layers=2",
        "--model.init_args.reward.init_args.backbone.num_layers=3",
        f"--model.init_args.references={data_files.prompts}",
        f"--data.preferences={data_files.unlabeled}",
        f"--data.labeling.labeler.init_args.backend.init_args.model={tiny_model_folder}",
    ]
    assert cli.main(["fit", *small]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "No --config: training the quickstart reward model on AI labels "
        "(quickstart/reward_from_pairs.yaml)."
    )
    assert (tmp_path / "runs/reward_from_pairs/reward_model/model.safetensors").is_file()
    assert (tmp_path / "runs/reward_from_pairs/labels.sqlite").is_file()


def test_the_default_does_not_leak_into_a_config(fit_config, capsys):
    assert stopped(["fit", "--config", fit_config(), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["labeling"]["labeler"] is None
    assert not printed["trainer"]["callbacks"]


@pytest.mark.parametrize("command", ["export", "fit"])
def test_a_config_in_another_encoding_is_named(tmp_path, capsys, command):
    (tmp_path / "a.yaml").write_bytes("out: x.jsonl\n".encode("utf-16"))
    assert cli.main([command, "--config", str(tmp_path / "a.yaml")]) == 1
    assert "a.yaml to be UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["label", "fit"])
def test_a_key_given_twice_is_refused(tmp_path, capsys, command):
    (tmp_path / "a.yaml").write_text("out: a\nout: b\n")
    assert cli.main([command, "--config", str(tmp_path / "a.yaml")]) == 1
    assert "a.yaml, line 2: the key 'out' is given twice" in capsys.readouterr().err
