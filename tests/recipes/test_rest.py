"""The loop on a tiny model: provenance, resuming, stopping, and the fits it makes."""

import dataclasses
import inspect
import shutil
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands import rest as command
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.data.sources import load_demonstrations, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import BackboneOptions, Lora
from rlaif_pl.models.policy import load_policy
from rlaif_pl.pipeline.process import arguments
from rlaif_pl.pipeline.yaml_files import dump_yaml
from rlaif_pl.recipes.rest import Rest
from rlaif_pl.recipes.rest_improve import Improve, fit_config, select
from rlaif_pl.recipes.rest_samples import (
    DEMONSTRATION,
    Drawing,
    ScoredResponse,
    demonstration,
    draw_samples,
    read_samples,
)
from rlaif_pl.rl.function_reward import as_reward
from rlaif_pl.text import Template
from rlaif_pl.training import FineTuningAdamW, PreferenceDataModule, SFTModule

DRAWING = Drawing(sampling=SamplingParams(n=3, max_new_tokens=6), batch_size=4, chunk=4)
IMPROVE = Improve(
    by="percentile",
    levels=[50.0, 90.0],
    lr=1e-3,
    batch_size=4,
    max_response_tokens=8,
    lora=Lora(r=2, alpha=4),
    keep_unfinished=True,
    early_stop=False,
    trainer={"accelerator": "cpu", "enable_progress_bar": False},
)


class Lengths:
    """Rewards long responses; counts what it is asked for."""

    fingerprint = "lengths"

    def __init__(self):
        self.asked = 0

    def score(self, prompts, responses):  # noqa: ARG002
        self.asked += len(responses)
        return torch.tensor([float(len(text)) for text in responses])


class KilledError(RuntimeError):
    """Stands for a kill."""


@pytest.fixture
def policy(tiny_model_folder):
    return BackboneOptions(str(tiny_model_folder), trunk_layers=2)


@pytest.fixture
def fits():
    """Fit for real, in this process and without the seconds that LightningCLI takes to start."""
    made = []

    def fit(config, folder):
        made.append(folder.name)
        (folder / "config.yaml").write_text(dump_yaml(config))
        options, data = config["model"]["init_args"], config["data"]
        module = SFTModule(
            BackboneOptions(**options["backbone"]),
            Lora(**options["lora"]),
            max_response_tokens=options["max_response_tokens"],
            optimizer=partial(torch.optim.AdamW, lr=options["optimizer"]["init_args"]["lr"]),
            seed=options["seed"],
        )
        rows = PreferenceDataModule(
            "demonstrations",
            demonstrations=data["demonstrations"]["name"],
            validation_fraction=data["validation_fraction"],
            batch_size=data["batch_size"],
        )
        Trainer(
            max_epochs=config["trainer"]["max_epochs"],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, rows)
        module.export(folder / "policy")

    fit.made = made
    return fit


@pytest.fixture
def build(policy, fits, small_prompts, tmp_path):
    def build(**changes):
        settings = {
            "policy": policy,
            "train": small_prompts[:6],
            "validation": small_prompts[6:9],
            "reward": Lengths(),
            "out": tmp_path / "rest",
            "fit": fits,
            "grow_steps": 1,
            "drawing": DRAWING,
            "improve": IMPROVE,
        }
        return Rest(**{**settings, **changes})

    return build


def row(reward, response="x", group="a", **more):
    settings = {"grow": 1, "sample": 0, "policy": "p", "seed": 0}
    return ScoredResponse(f"post {group}", group, response, reward, **{**settings, **more})


def test_what_is_kept_by_hand():
    rows = [
        row(1.0, "one"),
        row(2.0, "two"),
        row(9.0, "cut", is_finished=False),
        row(8.0, " "),
        row(2.0, "two", sample=1),
        row(3.0, "reference", policy=DEMONSTRATION, grow=0),
    ]
    # cut and empty ones and the repetition go first: 1, 2, 3 with the median 2
    kept = select(rows, Improve(by="percentile", levels=[50.0]), 50.0)
    assert [each.response for each in kept] == ["two", "reference"]
    unfinished = Improve(by="percentile", levels=[50.0], keep_unfinished=True)
    # 1, 2, 9, 3 with the median 2.5
    assert [each.response for each in select(rows, unfinished, 50.0)] == ["cut", "reference"]
    with pytest.raises(ValueError, match="all 1 are empty or cut"):
        select(rows[2:3], Improve(), 0.0)


def test_a_cut_sample_says_so_to_the_fit(tmp_path):
    rows = [row(1.0, "whole"), row(2.0, "cut", is_finished=False)]
    write_prompts(tmp_path / "kept.jsonl", [demonstration(each, each.prompt) for each in rows])
    data = PreferenceDataModule(
        "demonstrations", demonstrations=str(tmp_path / "kept.jsonl"), validation_fraction=0.0
    )
    data.setup("fit")
    marks = {each.reference: each.columns for each in data.train_rows}
    assert marks == {"whole": {}, "cut": {"is_finished": False}}


def test_the_rate_falls_and_a_rise_is_a_rise():
    improve = Improve(lr=0.4, lr_decay=0.5, min_gain=0.1)
    assert [improve.rate(step) for step in (1, 2, 3)] == [0.4, 0.2, 0.1]
    assert improve.is_rise(1.0, 1.2)
    assert not improve.is_rise(1.0, 1.1)
    assert dataclasses.replace(improve, early_stop=False).is_rise(1.0, 0.0)
    of_sft = inspect.signature(FineTuningAdamW).parameters
    assert Improve().rate(1) == of_sft["lr"].default
    assert Improve(lora=Lora()).rate(2) == of_sft["adapter_lr"].default / 2
    with pytest.raises(ValueError, match="lr_decay in"):
        Improve(lr_decay=1.5)


def test_a_torn_file_is_drawn_to_its_end_as_if_it_had_not_been(policy, small_prompts, tmp_path):
    model = load_policy(policy, Template())

    def draw(path, reward):
        return draw_samples(path, model, reward, small_prompts, DRAWING, grow=2, seed=5)

    whole = draw(tmp_path / "whole.jsonl", Lengths())
    assert len(whole) == 36
    assert {(each.grow, each.seed, each.policy) for each in whole} == {(2, 5, model.fingerprint)}
    assert [each.sample for each in whole[:3]] == [0, 1, 2]
    # killed in the middle of the second chunk: 4 + 1 whole prompts, one more row, half a line
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_text("".join(lines[:16]) + lines[16][:20])
    reward = Lengths()
    resumed = draw(tmp_path / "torn.jsonl", reward)
    assert reward.asked == 36 - 15
    assert sorted(resumed, key=repr) == sorted(whole, key=repr)
    assert read_samples(tmp_path / "torn.jsonl") == resumed


def test_a_whole_loop_and_its_provenance(build, fits, small_prompts, tmp_path):
    loop = build(grow_steps=2)
    steps = loop.run()
    out = tmp_path / "rest"
    assert [(step.grow, step.improve) for step in steps] == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert fits.made == ["improve-1-1", "improve-1-2", "improve-2-1", "improve-2-2"]
    assert loop.policy.name == str(out / "improve-2-2" / "policy")
    names = []
    for grow, writer in ((1, loop.parts.out / "nothing"), (2, out / "improve-1-2" / "policy")):
        rows = read_samples(out / f"grow-{grow}" / "samples.jsonl")
        assert {each.grow for each in rows} == {grow}
        (name,) = {each.policy for each in rows}
        names.append(name)
        if writer.is_dir():  # only the last Improve policy feeds the next Grow
            options = dataclasses.replace(loop.policy, name=str(writer))
            assert name == load_policy(options, Template()).fingerprint
    assert names[0] != names[1]
    demonstrations = read_samples(out / "start" / "demonstrations.jsonl")
    assert [each.response for each in demonstrations] == [p.reference for p in small_prompts[:6]]
    configs = [(out / f"improve-1-{step}" / "config.yaml").read_text() for step in (1, 2)]
    assert "lr: 0.001" in configs[0]
    assert "lr: 0.0005" in configs[1]
    assert "improve-1-1/policy" in configs[1]  # each starts from the one before
    kept = [load_demonstrations(str(out / f"improve-1-{step}" / "kept.jsonl")) for step in (1, 2)]
    assert len(kept[0]) > len(kept[1]) >= 6
    # several responses of a prompt are all learned from, though prompts are read once elsewhere
    assert len({each.group for each in kept[0]}) == 6 < len(kept[0])
    assert len(load_prompts(str(out / "improve-1-1" / "kept.jsonl"))) == 6
    assert steps[1].result["kept"] == len(kept[0])


def test_a_killed_loop_goes_on_where_it_was(build, fits, tmp_path):
    def dying(config, folder):
        if folder.name == "improve-1-2":
            raise KilledError
        fits(config, folder)

    with pytest.raises(KilledError):
        build(fit=dying).run()
    reward = Lengths()
    loop = build(reward=reward)
    steps = loop.run()
    assert fits.made == ["improve-1-1", "improve-1-2"]  # neither twice
    assert loop.parts.skipped == 3  # start, grow-1, improve-1-1
    assert reward.asked == 2 * 3  # the validation of the last step alone
    whole = build(out=tmp_path / "whole").run()
    assert [step.result for step in steps] == [step.result for step in whole]


def test_other_settings_run_what_they_change_and_put_the_old_aside(build, fits, tmp_path):
    build().run()
    fits.made.clear()
    levels = dataclasses.replace(IMPROVE, levels=[50.0, 80.0])
    loop = build(improve=levels)
    loop.run()
    assert fits.made == ["improve-1-2"]
    assert loop.parts.skipped == 3
    assert (tmp_path / "rest" / "replaced" / "improve-1-2-1" / "policy").is_dir()
    fits.made.clear()
    assert build(improve=levels, seed=1).run()
    assert len(fits.made) == 2


class Falling(Lengths):
    """Gives the validation prompts less each time it is asked for them."""

    def __init__(self, prompts, values):
        super().__init__()
        self.prompts = {prompt.text for prompt in prompts}
        self.values = iter(values)

    def score(self, prompts, responses):
        if set(prompts) <= self.prompts:
            return torch.full((len(responses),), next(self.values))
        return super().score(prompts, responses)


@pytest.mark.parametrize(
    ("values", "kept", "made"),
    [
        # start 1; Grow 1: 2, then 1.5 is no rise; Grow 2: 3, 4
        ([1.0, 2.0, 1.5, 3.0, 4.0], [True, False, True, True], "improve-2-2"),
        # neither step of Grow 2 helps, so what Grow 1 made stays
        ([1.0, 2.0, 3.0, 3.0], [True, True, False], "improve-1-2"),
    ],
)
def test_improving_stops_where_the_validation_reward_does(
    build, fits, small_prompts, values, kept, made
):
    improve = dataclasses.replace(IMPROVE, early_stop=True)
    reward = Falling(small_prompts[6:9], values)
    loop = build(improve=improve, reward=reward, grow_steps=2)
    steps = loop.run()
    assert [step.is_kept for step in steps[1:]] == kept
    assert loop.origin == made
    if made == "improve-2-2":  # Grow 2 draws from what Grow 1 kept
        (name,) = {r.policy for r in read_samples(loop.parts.out / "grow-2" / "samples.jsonl")}
        options = dataclasses.replace(
            loop.policy, name=str(loop.parts.out / "improve-1-1" / "policy")
        )
        assert name == load_policy(options, Template()).fingerprint


def test_a_loop_that_never_helps_ends_with_the_first_policy(build, policy, small_prompts):
    improve = dataclasses.replace(IMPROVE, early_stop=True)
    loop = build(improve=improve, reward=Falling(small_prompts[6:9], [2.0, 1.0]), grow_steps=3)
    assert [step.is_kept for step in loop.run()] == [True, False]
    assert loop.policy == policy


def test_the_config_of_a_fit_is_one_that_fit_takes_and_resumes(
    policy, small_prompts, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(command, "launch", lambda stage, path: cli.main(arguments(stage, path)[3:]))
    data, folder = tmp_path / "kept.jsonl", tmp_path / "fit"
    write_prompts(data, small_prompts)
    config = fit_config(policy, data, folder, IMPROVE, Template(), 1, 0)
    folder.mkdir()
    command.fit(config, folder)
    assert (folder / "policy" / "config.json").is_file()
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3  # 12 rows by 4, none held out
    shutil.rmtree(folder / "policy")
    written = last.stat().st_mtime_ns
    command.fit(
        config, folder
    )  # as after a kill: nothing is left to train, so it only writes the policy
    assert (folder / "policy" / "config.json").is_file()
    assert last.stat().st_mtime_ns == written


def test_a_fit_learns_samples_whole_at_a_rate_that_stays(policy, tmp_path):
    improve = Improve(warmup_steps=3)
    config = fit_config(policy, tmp_path / "kept.jsonl", tmp_path, improve, Template(), 1, 0)
    given = config["model"]["init_args"]
    assert given["max_response_tokens"] is None
    schedule = given["scheduler"]
    assert schedule["class_path"] == "rlaif_pl.training.ConstantWithWarmup"
    assert schedule["init_args"] == {"warmup_steps": 3}


def test_validation_prompts_are_not_trained_on(build, small_prompts):
    with pytest.raises(ValueError, match="3 prompts of which 1 are shared"):
        build(validation=small_prompts[5:8])
    with pytest.raises(ValueError, match="at least one Grow step"):
        build(grow_steps=0)


def test_a_reward_is_given_the_columns_of_prompts_and_demonstrations(build, small_prompts):
    rows = [
        dataclasses.replace(row, columns={"limit": n}) for n, row in enumerate(small_prompts[:9])
    ]

    def short(prompts, responses, limit, reference):
        assert len(prompts) == len(reference)
        return [-abs(len(text) - most) for text, most in zip(responses, limit, strict=True)]

    loop = build(reward=as_reward(short), train=rows[:6], validation=rows[6:])
    folder = loop.out / "start"
    folder.mkdir(parents=True)
    loop._start(folder)
    found = [
        *read_samples(folder / "demonstrations.jsonl"),
        *read_samples(folder / "validation.jsonl"),
    ]
    limits = {row.text: row.columns["limit"] for row in rows}
    assert len(found) == 6 + 3 * 2
    assert all(-each.reward == abs(len(each.response) - limits[each.prompt]) for each in found)
    with pytest.raises(
        ValueError, match="columns limit, which short asks for, in row 0 .*reference"
    ):
        build(reward=as_reward(short), train=rows[:6], validation=small_prompts[6:9])
    other = build(reward=as_reward(short), train=rows[:6], validation=rows[6:])
    assert (
        other.parts.fingerprint
        == build(reward=as_reward(short), train=rows[:6], validation=rows[6:]).parts.fingerprint
    )
