"""Every command that loads a model computes on the device that it is given."""

import inspect
import json

import pytest
import torch
import yaml
from claimed import frames_above

from rlaif_pl.cli import main as cli
from rlaif_pl.cli import registry
from rlaif_pl.cli.commands import rest as rest_command
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.pipeline.experiment import DEVICE_COMMANDS

MODEL_HINTS = (
    "BackboneOptions",
    "Reward",
    "RewardModel",
    "Labeler",
    "Backend",
    "MatrixJudges",
    "Fitting",
)
LOADS_BY_ITSELF = ("select", "doctor")  # out of a run's config, and by name


@pytest.fixture
def used(monkeypatch) -> dict[int, str]:
    """Note where each network last embedded tokens: probes at loading may run elsewhere before."""
    last: dict[int, str] = {}
    forward = torch.nn.Embedding.forward

    def spied(self, ids):
        # A model is tried where it is loaded, and what is written is read again where it was.
        callers = [frame.f_code for frame in frames_above()]
        if any(
            c.co_name == "output_head" or c.co_filename.endswith("export_check.py") for c in callers
        ):
            return forward(self, ids)
        last[id(self)] = self.weight.device.type
        kept.append(self)  # so that no other gets its id
        return forward(self, ids)

    kept = []
    monkeypatch.setattr(torch.nn.Embedding, "forward", spied)
    return last


@pytest.fixture
def command(tmp_path, apple_gpu, used):
    """Return a runner of ``COMMAND --device mps ...`` that checks where models ran; gives metrics."""
    assert apple_gpu.place.type == "mps"

    def run(name, *words, device="mps"):
        out = tmp_path / f"{name.replace(' ', '-')}-{device}"
        used.clear()
        assert cli.main([*name.split(), *words, f"--out={out}", f"--device={device}"]) == 0
        assert set(used.values()) == {device}
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture
def prompts(data_files):
    """A few: on the claimed GPU each op of each text takes Python's time."""
    return f"--prompts.name={data_files.prompts}", "--prompts.limit=4"


@pytest.fixture
def policies(tiny_model_folder):
    return (
        f"--policy.name={tiny_model_folder}",
        f"--sft.name={tiny_model_folder}",
        "--policy.trunk_layers=2",
    )


@pytest.fixture
def reward(tiny_reward_folder):
    return (
        "--reward=rlaif_pl.models.RewardModel",
        f"--reward.backbone.name={tiny_reward_folder}",
        "--reward.frozen=true",
    )


@pytest.fixture
def labeler(tiny_model_folder):
    return (
        "--labeler=rlaif_pl.labeling.LikelihoodLabeler",
        f"--labeler.backend={tiny_model_folder}",
    )


def takes_model(function) -> bool:
    hints = [str(each.annotation) for each in inspect.signature(function).parameters.values()]
    return any(word in MODEL_HINTS for hint in hints for word in hint.replace("[", " ").split())


def test_commands_that_load_a_model_take_a_device():
    found = []
    for name in registry.FUNCTIONS:
        function = registry.function_of(name)
        parameters = inspect.signature(function).parameters
        assert ("device" in parameters) == (takes_model(function) or name in LOADS_BY_ITSELF), name
        if "device" in parameters:
            assert parameters["device"].default == "auto"
            assert hasattr(function, "__wrapped__"), f"{name} lacks on_device"
            found.append(name)
    assert sorted(found) == sorted(DEVICE_COMMANDS)


@pytest.mark.parametrize("name", DEVICE_COMMANDS)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(name):
    with pytest.raises(ValueError, match=r"this machine has cpu.*got 'cuda:99'"):
        registry.function_of(name)(device="cuda:99")


def test_sampling_draws_there_what_the_cpu_draws(command, tmp_path, tiny_model_folder, prompts):
    words = (
        f"--policy.name={tiny_model_folder}",
        "--policy.trunk_layers=2",
        *prompts,
        "--sampling.max_new_tokens=6",
    )
    for device in ("cpu", "mps"):
        command("sample", *words, device=device)
    there, here = (
        load_preferences(str(tmp_path / f"sample-{device}" / "pairs.jsonl")).rows
        for device in ("mps", "cpu")
    )
    assert there == here


def test_policies_and_their_judges(command, policies, reward, labeler, prompts):
    words = (
        *policies,
        *reward,
        *labeler,
        *prompts,
        "--sampling.n=2",
        "--sampling.max_new_tokens=6",
        "--reporting.draws=50",
    )
    metrics = command("evaluate policy", *words)
    assert metrics["a2c/kl"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["winrate/policy_vs_sft"] == 0.5


def test_a_reward(command, reward, data_files):
    words = (*reward, f"--gold={data_files.pairs}", "--draws=50")
    here, there = (command("evaluate reward", *words, device=name) for name in ("cpu", "mps"))
    assert there["reward/pair_accuracy"] == here["reward/pair_accuracy"]


def test_a_matrix(command, tiny_model_folder, tiny_reward_folder, prompts):
    model = tiny_model_folder
    rewards = (
        "{ours: {class_path: rlaif_pl.models.RewardModel, init_args: "
        f"{{backbone: {{name: {tiny_reward_folder}}}, frozen: true}}}}}}"
    )
    metrics = command(
        "evaluate matrix",
        f"--policies={{sft: {{name: {model}, trunk_layers: 2}}, same: {{name: {model}}}}}",
        *prompts,
        "--sft=sft",
        f"--judges.rewards={rewards}",
        "--sampling.n=2",
        "--sampling.max_new_tokens=6",
        "--reporting.draws=50",
    )
    assert metrics["matrix/embedding/sft_vs_same"] == 0.5


def test_labels_and_agreement(command, labeler, data_files):
    command("label", f"--pairs={data_files.unlabeled}", f"--gold={data_files.pairs}", *labeler)
    command("evaluate alignment", f"--data={data_files.pairs}", "--draws=50", *labeler)


def test_single_responses(command, tmp_path, tiny_model_folder):
    file = tmp_path / "samples.jsonl"
    rows = [{"prompt": f"post {n}", "sft": ["one"], "policy": ["and two"]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command(
        "evaluate harmless",
        f"--samples={file}",
        "--labeler=rlaif_pl.labeling.ScoreLabeler",
        "--labeler.verdict.min_option_mass=0",
        f"--labeler.backend={tiny_model_folder}",
        "--labeler.task=harmless",
        "--draws=20",
    )


def test_revisions_and_their_judges(command, tmp_path, tiny_model_folder):
    options = ("--prompts.name=tiny_requests/train", "--prompts.limit=2")
    words = (
        "--options={rounds: 1, shots: 0, max_answer_tokens: 4, max_critique_tokens: 16}",
        "--cut=keep",
    )
    command("revise", *options, f"--backend={tiny_model_folder}", *words)
    command(
        "evaluate revisions",
        f"--revisions={tmp_path / 'revise-mps' / 'revisions.jsonl'}",
        "--harmless=rlaif_pl.labeling.ConstitutionLabeler",
        "--harmless.verdict.min_option_mass=0",
        f"--harmless.backend={tiny_model_folder}",
        "--draws=20",
    )


@pytest.mark.parametrize("name", ["study rewards", "study curve"])
def test_studies(name, command, tmp_path, tiny_model_folder, data_files):
    seeds = ("--seeds.head=1", "--seeds.top=0", "--arms=[human,ai]")
    metrics = command(
        name,
        f"--human={data_files.pairs}",
        f"--ai={data_files.pairs}",
        f"--fitting.reward.backbone.name={tiny_model_folder}",
        "--fitting.reward.backbone.trunk_layers=2",
        "--fitting.reward.pooling=mean",
        f"--fitting.states={tmp_path / 'states'}",
        *(seeds if name == "study rewards" else ("--sizes=[6]", "--subsets=1")),
        "--folds=2",
        "--draws=20",
    )
    assert metrics


def test_a_checkpoint_is_selected(command, tmp_path, tiny_model_folder, prompts, labeler):
    backbone = {"name": str(tiny_model_folder), "trunk_layers": 2}
    node = {"class_path": "rlaif_pl.models.ActorCritic"}
    node["init_args"] = {"backbone": backbone, "lora": {"r": 4, "alpha": 8}}
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config = {"model": {"class_path": "x", "init_args": {"actor": node}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    actor = ActorCritic(BackboneOptions(**backbone), lora=Lora(r=4, alpha=8))
    path = run / "checkpoints" / "step=2.ckpt"
    kept = {"ModelCheckpoint{'monitor': 'a2c/val_reward'}": kept_by("a2c/val_reward", path)}
    state = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state,
            "callbacks": kept,
            "global_step": 2,
        },
        path,
    )
    words = (f"--run={run}", *prompts, "--sampling.max_new_tokens=4")
    command("select", *words, "--reporting.draws=20", *labeler)
    assert (tmp_path / "select-mps" / "policy" / "model.safetensors").is_file()


def kept_by(monitor, path):
    """What ModelCheckpoint writes of itself."""
    return {
        "monitor": monitor,
        "best_k_models": {str(path): torch.tensor(1.0)},
        "current_score": torch.tensor(1.0),
    }


def test_the_loop_and_its_fits(command, used, monkeypatch, tiny_model_folder, reward, prompts):
    fitted = []

    def fit(config, folder):
        fitted.append(config["trainer"])
        before = dict(used)  # this fit leaves its models on the CPU
        policy = rest_command.load_policy(
            BackboneOptions(**config["model"]["init_args"]["backbone"]), rest_command.Template()
        )
        rest_command.save_policy(folder / "policy", policy)
        used.clear()
        used.update(before)

    monkeypatch.setattr(rest_command, "fit", fit)
    command(
        "rest",
        f"--policy.name={tiny_model_folder}",
        "--policy.trunk_layers=2",
        *prompts,
        "--validation.name=tiny_tldr/dev",
        "--validation.limit=3",
        *reward,
        "--drawing={sampling: {n: 2, max_new_tokens: 6}}",
        "--improve={by: max_mean, levels: [0.5], keep_unfinished: true, early_stop: false}",
    )
    assert [each["accelerator"] for each in fitted] == ["mps"]
