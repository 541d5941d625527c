import json
from functools import partial

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.cli.commands import select
from rlaif_pl.cli.commands.select import build_actor, config_of, load_weights
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.selection import Candidate, find_candidates
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.reporting.files import read_results
from rlaif_pl.training import A2CModule, ConstantWithWarmup, PreferenceDataModule

MONITOR = "a2c/val_reward"


class Lengths:
    """Pays for characters."""

    def score(self, prompts, responses):  # noqa: ARG002
        return torch.tensor([float(len(text)) for text in responses])


@pytest.fixture(scope="module")
def a2c_run(tmp_path_factory, tiny_model_folder, data_files):
    """Train four steps on the tiny model, validated after each; returns the stage's folder."""
    folder = tmp_path_factory.mktemp("a2c")
    arguments = {
        "backbone": {"name": str(tiny_model_folder), "trunk_layers": 2},
        "lora": {"r": 4, "alpha": 8},
    }
    node = {"class_path": "rlaif_pl.models.ActorCritic", "init_args": arguments}
    config = {"model": {"class_path": "x", "init_args": {"actor": node}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    actor = ActorCritic(
        BackboneOptions(str(tiny_model_folder), trunk_layers=2), lora=Lora(r=4, alpha=8)
    )
    module = A2CModule(
        actor,
        Lengths(),
        sampling=SamplingParams(n=2, max_new_tokens=6, temperature=0.9),
        optimizer=partial(torch.optim.AdamW, lr=3e-2),
        scheduler=ConstantWithWarmup,
    )
    data = PreferenceDataModule(
        "prompts", prompts=data_files.prompts, batch_size=3, validation_fraction=0.2
    )
    kept = ModelCheckpoint(
        folder / "checkpoints", "{step}", MONITOR, mode="max", save_top_k=2, save_last=True
    )
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=4,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        callbacks=[kept],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "final.ckpt")  # last.ckpt is that of the last of the k best
    weights = {n: v.clone() for n, v in actor.state_dict().items()}
    return folder, {k.rsplit("/", 1)[-1]: float(v) for k, v in kept.best_k_models.items()}, weights


def test_the_k_best_by_validation_reward_are_found(a2c_run):
    folder, best, _ = a2c_run
    found = find_candidates(folder / "checkpoints", MONITOR, 4)
    assert {each.path.name: pytest.approx(each.value) for each in found} == best
    assert len(found) == 2
    assert found[0].value >= found[1].value
    assert all(each.path.name == f"step={each.step}.ckpt" for each in found)
    assert find_candidates(folder / "checkpoints", MONITOR, 1) == found[:1]


def test_a_folder_without_them_says_how_to_keep_some(tmp_path):
    with pytest.raises(
        ValueError, match=r"got 0 files without; train with ModelCheckpoint\(monitor"
    ):
        find_candidates(tmp_path, MONITOR, 4)


def test_a_lean_checkpoint_gives_the_trained_policy_back(a2c_run):
    folder, _, trained = a2c_run
    actor = build_actor(folder / "config.yaml")
    before = actor.policy.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    load_weights(actor, Candidate(folder / "final.ckpt", 4, 0.0))
    torch.testing.assert_close(actor.state_dict(), trained, rtol=0, atol=0)
    moved = [n for n, v in actor.policy.state_dict().items() if not torch.equal(v, before[n])]
    assert moved
    assert all("lora" in name for name in moved)


def test_a_checkpoint_of_another_config_is_refused(a2c_run, tmp_path):
    folder, _, _ = a2c_run
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    name = next(name for name in saved["state_dict"] if "lora" in name)
    del saved["state_dict"][name]
    torch.save(saved, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="the config beside it is of another run"):
        load_weights(
            build_actor(folder / "config.yaml"), Candidate(tmp_path / "other.ckpt", 1, 0.0)
        )


def test_the_winner_is_exported_and_said_to_be_chosen_here(
    command, out, a2c_run, data_files, labeler, capsys
):
    folder, best, _ = a2c_run
    metrics = command(
        "select",
        f"--run={folder}",
        f"--prompts={data_files.prompts}",
        *labeler,
        "--sampling.max_new_tokens=6",
        "--reporting.draws=50",
        "--reporting.show_text=false",
    )
    assert metrics["select/candidates"] == len(best) == 2
    steps = [int(name.split("=")[1].removesuffix(".ckpt")) for name in best]
    rates = {step: metrics[f"select/step_{step}"] for step in steps}
    chosen = metrics["select/chosen_step"]
    assert rates[chosen] == max(rates.values()) == metrics["select/chosen"]
    low, high = metrics["select/chosen_low"], metrics["select/chosen_high"]
    assert low <= metrics["select/chosen"] <= high
    assert metrics["select/chosen_validation_reward"] == pytest.approx(
        best[f"step={int(chosen)}.ckpt"]
    )
    assert (out / "policy/config.json").is_file()
    page = read_results(out / "tables.json").page
    assert [row[0] for row in page.tables[0].rows if row[-1]] == [chosen]
    assert (out / "candidates.svg").is_file()
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert rows[0].keys() == {"prompt", "sft", *(f"step_{step}" for step in steps)}
    assert "not shown]" in rows[0]["prompt"]
    kept = [json.loads(line) for line in (out / "sample_texts.jsonl").read_text().splitlines()]
    assert "not shown]" not in kept[0]["prompt"]
    assert "These prompts served to choose it" in capsys.readouterr().out


def test_a_place_that_is_taken_is_refused_before_anything_is_sampled(
    command, out, a2c_run, data_files, labeler, capsys, monkeypatch
):
    monkeypatch.setattr("rlaif_pl.cli.commands.select.generate", None)
    (out / "policy").mkdir(parents=True)
    (out / "policy" / "notes.txt").write_text("mine")
    command("select", f"--run={a2c_run[0]}", f"--prompts={data_files.prompts}", *labeler, status=1)
    assert "an earlier model at" in capsys.readouterr().err


def test_the_config_is_that_of_run_or_of_a_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.yaml or resolved_config.yaml in"):
        config_of(tmp_path)
    for name in ("resolved_config.yaml", "config.yaml"):
        (tmp_path / name).touch()
        assert config_of(tmp_path) == tmp_path / name


def test_prompts_that_report_the_result_are_refused(command, a2c_run, data_files, labeler, capsys):
    command(
        "select",
        f"--run={a2c_run[0]}",
        f"--prompts={data_files.prompts}",
        f"--final={data_files.prompts}",
        *labeler,
        status=1,
    )
    assert "got 12 of 12 that are in `final` too" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("precision", [None, "32-true", "bf16-mixed"])
def test_policies_compute_as_they_were_trained_and_judges_as_ever(
    command, a2c_run, data_files, labeler, tmp_path, monkeypatch, precision
):
    run, seen = tmp_path / "run", {"generate": [], "compare": []}
    run.mkdir()
    (run / "checkpoints").symlink_to(a2c_run[0] / "checkpoints")
    config = yaml.safe_load((a2c_run[0] / "config.yaml").read_text())
    trainer = {} if precision is None else {"trainer": {"precision": precision}}
    (run / "config.yaml").write_text(yaml.safe_dump(config | trainer))

    def spy(name):
        own = getattr(select, name)

        def noted(*args, **options):
            seen[name].append(torch.is_autocast_enabled("cpu"))
            return own(*args, **options)

        monkeypatch.setattr(select, name, noted)

    spy("generate")
    spy("compare")
    small = ("--sampling.max_new_tokens=4", "--reporting.draws=20")
    command("select", f"--run={run}", f"--prompts={data_files.prompts}", *labeler, *small)
    assert seen == {"generate": [precision == "bf16-mixed"] * 3, "compare": [False] * 2}
