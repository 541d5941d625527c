"""A model takes the place of nothing, of an empty folder or of an earlier model; of nothing else."""

import json
import os

import pytest

from rlaif_pl.models.adapter_export import save_adapter
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import (
    check_place,
    name_rope_for_all,
    replaced_whole,
    save_causal,
)
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.text import Template


@pytest.fixture
def policy(make_model, tokenizer, tmp_path):
    folder = save_causal(tmp_path / "base", make_model("llama"), tokenizer)
    return for_role(load_policy(BackboneOptions(str(folder)), Template()), Lora(r=2), seed=0)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("write", [save_policy, save_adapter])
def test_what_is_no_model_is_never_replaced(policy, tmp_path, write):
    run = fill(tmp_path / "run", "checkpoints/last.ckpt", "history.csv", "metrics.json")
    with pytest.raises(
        ValueError, match=r"got checkpoints/, history.csv, metrics.json; name a new"
    ):
        write(run, policy)
    assert (run / "checkpoints" / "last.ckpt").read_text() == "checkpoints/last.ckpt"
    assert {path.name for path in tmp_path.iterdir()} == {"base", "run"}


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_the_umask_says_who_may_read_a_model(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replaced_whole(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("write", [save_policy, save_adapter])
def test_an_earlier_model_is_replaced_behind_a_link_too(policy, tmp_path, write):
    (tmp_path / "out").mkdir()
    for other in (save_policy, save_adapter, write):
        other(tmp_path / "out", policy)
    fill(tmp_path / "out", "model-00001-of-00002.safetensors")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert write(tmp_path / "link", policy) == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "out" / "model-00001-of-00002.safetensors").exists()


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        (["README.md"], "README.md"),
        (["config.json", "metrics.json"], "metrics.json"),
        (["config.json", "model.safetensors", ".git/HEAD"], ".git/"),
        (["config.json", "a", "b", "c", "d", "e", "f"], "a, b, c, d and 2 more"),
    ],
)
def test_what_stands_there_is_named(tmp_path, names, odd):
    with pytest.raises(ValueError, match=f"got {odd}; name a new folder"):
        check_place(fill(tmp_path / "out", *names))


def test_what_comes_while_a_model_is_written_stays(tmp_path):
    with pytest.raises(ValueError, match=r"got notes.txt"), replaced_whole(tmp_path / "out"):
        fill(tmp_path / "out", "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "notes.txt").is_file()


def test_a_file_is_no_place(tmp_path):
    with pytest.raises(ValueError, match="got a file; name a new folder"):
        check_place(fill(tmp_path, "out") / "out")


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "linear", "factor": 2.0}])
def test_the_base_of_positions_is_written_for_old_and_new(tmp_path, scaling):
    rope = {"rope_theta": 5e5, **(scaling or {"rope_type": "default"})}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"rope_parameters": rope}))
    name_rope_for_all(path)
    settings = json.loads(path.read_text())
    assert settings["rope_theta"] == 5e5
    assert settings.get("rope_scaling", {}) == scaling
    assert settings["rope_parameters"] == rope
