from pathlib import Path

import pytest

from rlaif_pl.config_paths import config_paths
from rlaif_pl.pipeline.experiment import fill, load_experiment


def load(tmp_path, stages, extra=""):
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\n{extra}\nstages:\n{stages}")
    return load_experiment(file)


def test_stages_have_defaults(tmp_path):
    experiment = load(tmp_path, "  - {name: a, command: fit}\n  - {name: b, command: sample}\n")
    assert (experiment.out, experiment.seed) == (Path("runs/x"), 0)
    assert [stage.needs for stage in experiment.stages] == [(), ("a",)]


def test_config_is_overlaid_and_placeholders_are_filled_with_their_types(toy):
    experiment = load_experiment(toy.file)
    assert experiment.resolve(experiment.stages[0]) == {
        "optimizer": {"lr": 1e-4},
        "model": "tiny",
        "seed_everything": 3,
        "trainer": {"default_root_dir": f"{toy.out}/sft"},
    }


def test_out_and_seed_of_the_command_line_win(toy):
    experiment = load_experiment(toy.file, Path("elsewhere"), 7)
    resolved = experiment.resolve(experiment.stages[0])
    assert resolved["seed_everything"] == 7
    assert resolved["trainer"] == {"default_root_dir": "elsewhere/sft"}


def test_placeholders_inside_text_become_text():
    assert fill(["seed-${seed}", {"x": "${seed}"}], {"seed": 3}) == ["seed-3", {"x": 3}]


def test_an_unknown_placeholder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stage 'a': unknown placeholder \$\{sed\}.*\$\{seed\}"):
        load(tmp_path, "  - {name: a, command: fit, set: {x: '${sed}'}}\n")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("  - {name: a, command: fit, sets: {}}\n", r"unknown key 'sets'; did you mean 'set'\?"),
        ("  - {name: a, command: fitt}\n", r"unknown command 'fitt'; did you mean 'fit'\?"),
        ("  - {name: a}\n", r"stage 'a': expected the key 'command'"),
        ("  - {command: fit}\n", r"stage 1: expected the key 'name'"),
        ("  - {name: ../a, command: fit}\n", r"expected a name of letters.*got '\.\./a'"),
        (
            "  - {name: a, command: fit, config: no.yaml}\n",
            r"stage 'a': expected a config file at .*no\.yaml or .*, there is none",
        ),
        ("  - {name: a, command: fit}\n  - {name: a, command: fit}\n", r"taken by an earlier"),
        ("  - {name: a, command: fit, needs: [b]}\n", r"needs unknown stage 'b'"),
        ("  - {name: a, command: fit, needs: [a]}\n", r"in a circle: a -> a"),
        ("  - {name: a, command: fit, needs: b}\n", r"expected needs to be of type list, got 'b'"),
        (
            "  - {name: a, command: fit, needs: [b]}\n  - {name: b, command: fit, needs: [a]}\n",
            r"in a circle: a -> b -> a",
        ),
        (
            "  - {name: a, command: fit, needs: [b]}\n  - {name: b, command: fit, needs: []}\n",
            r"needs 'b', which must then stand above it",
        ),
        (
            "  - {name: a, command: fit}\n  - {name: b, command: fit}\n"
            "  - {name: c, command: fit, needs: [], set: {x: '${out}/b/y'}}\n",
            r"stage 'c': x reads \$\{out\}/b/y but the stage does not need 'b'",
        ),
        ("  []\n", r"at least one stage"),
        ("  - fit\n", r"stage 1: expected a mapping"),
    ],
)
def test_a_wrong_stage_is_refused_by_name(tmp_path, stages, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, stages)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sed: 3", "unknown key 'sed'; did you mean 'seed'"),
        ("seed: true", "expected seed to be of type int"),
    ],
)
def test_a_wrong_top_level_key_is_refused(tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, "  - {name: a, command: fit}\n", extra)


def test_a_run_folder_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    stages = "  - {name: a, command: fit, set: {x: '${out}/b'}}\n"
    experiment = load(tmp_path, stages, "out: ~/runs")
    assert experiment.out == tmp_path / "runs"
    assert experiment.resolve(experiment.stages[0])["x"] == str(tmp_path / "runs/b")


def test_a_config_that_comes_with_the_package_needs_no_path(tmp_path):
    row = "  - {name: a, command: fit, config: quickstart/sft.yaml}\n"
    packaged = config_paths() / "quickstart/sft.yaml"
    assert load(tmp_path, row).stages[0].config == packaged
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart/sft.yaml").write_text("seed_everything: 7\n")
    assert load(tmp_path, row).stages[0].config == tmp_path / "quickstart/sft.yaml"
