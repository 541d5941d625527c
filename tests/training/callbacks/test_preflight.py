"""What the last step needs is looked for before the first."""

import socket
from collections import Counter
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.labeling import EndpointBackend, Retries
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.models import BackboneOptions, Lora, RewardModel
from rlaif_pl.training import RewardModule, SFTModule
from rlaif_pl.training.callbacks import ExportModel, HackingAlarm
from rlaif_pl.training.callbacks import preflight as preflight_file
from rlaif_pl.training.callbacks.preflight import preflight

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        return Trainer(
            default_root_dir=tmp_path / "run",
            accelerator="cpu",
            logger=False,
            callbacks=list(callbacks),
            **{"enable_checkpointing": False, **options},
        )

    return make


@pytest.fixture
def module(tiny_model_folder):
    return SFTModule(BackboneOptions(str(tiny_model_folder)))


def bytes_of(module):
    return 4 * sum(p.numel() for p in module.policy.top.parameters())


def test_a_fit_that_can_end_leaves_nothing_behind(trainer, module, tmp_path):
    preflight(trainer(ExportModel("deep/policy")), module)
    found = {path.name for path in (tmp_path / "run").rglob("*")}
    assert found == {"deep"}


def test_checkpoints_at_an_address_need_no_folder_here(trainer, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = trainer(ModelCheckpoint("memory://bucket/run"), enable_checkpointing=True)
    preflight(fit, module)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(fit.strategy, "_save_distributed_checkpoint", True, raising=False)
    with pytest.raises(ValueError, match="local folder for checkpoints with a file a process"):
        preflight(fit, module)


def test_an_export_that_cannot_be_is_refused_before_training(trainer, module, monkeypatch):
    def refuse(form):
        raise ValueError("no classifier")

    monkeypatch.setattr(module, "check_export", refuse)
    with pytest.raises(ValueError, match="no classifier"):
        preflight(trainer(ExportModel()), module)
    with pytest.raises(ValueError, match="no classifier"):  # without the command line, too
        ExportModel().setup(trainer(), module, "fit")
    preflight(trainer(), module)  # nothing is to be exported


@pytest.mark.parametrize("folder", [".", "..", "checkpoints", "old"])
def test_an_export_over_something_else_is_refused_before_training(
    trainer, module, tmp_path, folder
):
    (tmp_path / "run" / "old").mkdir(parents=True)
    (tmp_path / "run" / "old" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="ExportModel: expected .*name a"):
        ExportModel(folder).setup(trainer(), module, "fit")


def test_an_unknown_form_of_an_export_is_refused():
    with pytest.raises(ValueError, match="expected form to be 'whole' or 'adapter', got 'peft'"):
        ExportModel(form="peft")


def test_a_module_that_exports_nothing_is_told_of_before_training(fit):
    with pytest.raises(ValueError, match="expected a module with export.*got TinyModule"):
        fit(callbacks=[ExportModel()])


def test_a_file_in_the_way_is_refused(trainer, module, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "policy").write_text("mine")
    with pytest.raises(ValueError, match="run/policy or nothing, got a file"):
        preflight(trainer(ExportModel("policy")), module)
    with pytest.raises(OSError, match="policy"):  # its folder cannot be made
        preflight(trainer(ExportModel("policy/deep")), module)


def disk_of(monkeypatch, free):
    usage = lambda _: SimpleNamespace(free=free)  # noqa: E731
    monkeypatch.setattr(preflight_file.shutil, "disk_usage", usage)


def test_a_disk_without_room_for_the_export_is_refused(trainer, module, monkeypatch):
    disk_of(monkeypatch, bytes_of(module) - 1)
    with pytest.raises(ValueError, match=r"expected 0\.\d MB of room .*run, got 0\.\d MB"):
        preflight(trainer(ExportModel()), module)
    disk_of(monkeypatch, bytes_of(module))
    preflight(trainer(ExportModel()), module)


def test_a_disk_that_may_be_too_small_is_warned_of(trainer, module, monkeypatch, tmp_path):
    # Export and weights fit; three checkpoints with Adam's state do not.
    disk_of(monkeypatch, 4 * bytes_of(module))
    keeps = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=3, monitor="x")
    with pytest.warns(UserWarning, match="may take [0-9.]+ MB in .*checkpoints"):
        preflight(trainer(ExportModel(), keeps, enable_checkpointing=True), module)


def test_adapters_make_small_checkpoints(trainer, tiny_model_folder, tmp_path):
    module = SFTModule(BackboneOptions(str(tiny_model_folder)), lora=Lora(r=1))
    keeps = ModelCheckpoint(tmp_path / "checkpoints")
    least, likely = preflight_file._writes(trainer(keeps, enable_checkpointing=True), module)
    trained = 4 * sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert least == Counter({tmp_path / "checkpoints": trained})
    assert likely == Counter({tmp_path / "checkpoints": 3 * trained})


def test_references_are_read_before_training(trainer, tiny_model_folder, data_files, tmp_path):
    reward = RewardModel(BackboneOptions(str(tiny_model_folder)))
    for references, error in [(tmp_path / "none.jsonl", OSError), (data_files.pairs, ValueError)]:
        module = RewardModule(reward, references=str(references))
        with pytest.raises(error, match=Path(references).name):
            preflight(trainer(), module)
    preflight(trainer(), RewardModule(reward, references=data_files.prompts))


def judge_at(address):
    return ScoreLabeler(EndpointBackend(address, "m", retries=Retries(max_retries=0)))


def test_a_judge_that_does_not_answer_is_named(trainer, module):
    with pytest.raises(OSError, match=f"expected a server at {NOBODY}, got no answer"):
        preflight(trainer(HackingAlarm(judge=judge_at(NOBODY))), module)


def test_a_server_that_rewards_is_asked_before_training(trainer):
    class Rewarded(torch.nn.Module):
        reward = LabelerReward(judge_at(NOBODY))

    with pytest.raises(OSError, match=NOBODY):
        preflight_file.check_servers(Rewarded(), trainer())


@pytest.mark.parametrize(("status", "is_refused"), [(200, False), (404, False), (401, True)])
def test_a_server_without_a_list_of_models_is_there(trainer, status, is_refused):
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer_once(server, status)
        backend = EndpointBackend(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "m")
        if is_refused:
            with pytest.raises(OSError, match="take the key in OPENAI_API_KEY, got HTTP 401"):
                backend.check()
        else:
            backend.check()


def answer_once(server, status):
    def task():
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())

    Thread(target=task, daemon=True).start()
