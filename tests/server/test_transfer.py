"""Weights to servers over NCCL: vLLM's protocol and names, with queues where two GPUs would be."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import stand_in_transfer
import torch
from safetensors.torch import load_file

from rlaif_pl.engine import SamplingParams
from rlaif_pl.models import Lora
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl import VLLMGenerator
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.vllm.facts import ServerFacts
from rlaif_pl.rl.vllm.transfer import WeightTransfer
from rlaif_pl.training import A2CModule, rollouts

PARAMS = SamplingParams(n=2, max_new_tokens=6)


@pytest.fixture
def on_gpu(monkeypatch):
    """Let the trainer say that it is on a GPU, and have vLLM beside it."""
    stand_in_transfer.install(monkeypatch)
    monkeypatch.setattr(SampledPolicy, "device_type", "cuda")


def started(server, actor, tmp_path):
    generator = VLLMGenerator(
        server.url, str(tmp_path / "weights"), tolerance=1e-4, timeout_s=20.0, weights="nccl"
    )
    policy = SampledPolicy(actor.policy)
    generator.prepare(policy, PARAMS, for_training=True)
    return generator, policy


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None])
def test_each_update_is_what_the_server_draws_from(stand_in, actor_of, moved, tmp_path, lora):
    server = stand_in(has_adapters=False, transfer="nccl")
    actor = actor_of(lora)
    generator, policy = started(server, actor, tmp_path)
    for _ in range(2):
        moved(actor.policy)
        server.log.clear()
        generator.update(policy)  # scores the fixed text, and stops where it differs
        changes = [path for path in server.log if path != "/v1/completions"]
        once = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
        assert [e for e in changes if e != "/init_weight_transfer_engine"] == [
            "/pause?mode=wait",
            *once,
            "/resume",
            "/reset_prefix_cache",
        ]
    assert "/init_weight_transfer_engine" not in server.log  # once a run
    assert not (tmp_path / "weights").exists()
    generator.close()
    assert server.group not in stand_in_transfer.GROUPS
    generator.update(policy)  # it joins again


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="expected weights to be 'folder' or 'nccl', got 'NCCL'"):
        VLLMGenerator("http://127.0.0.1:1", "weights", weights="NCCL")


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None])
def test_what_is_sent_is_what_an_export_writes(actor_of, moved, tmp_path, lora):
    actor = actor_of(lora)
    moved(actor.policy)
    sent = dict(SampledPolicy(actor.policy).tensors())
    written = load_file(save_policy(tmp_path / "policy", actor.policy) / "model.safetensors")
    assert sent.keys() == written.keys()
    for name, value in written.items():
        torch.testing.assert_close(sent[name], value, rtol=0, atol=0)


def test_weights_trained_whole_are_sent_without_a_copy(actor_of):
    policy = actor_of(None, trunk_layers=0).policy
    own = {value.data_ptr() for value in policy.parameters()}
    assert {value.data_ptr() for _, value in SampledPolicy(policy).tensors()} == own


def test_a_fit_asks_for_the_trainers_device_before_the_policy_is_there(
    stand_in, actor_of, tmp_path, monkeypatch
):
    stand_in_transfer.install(monkeypatch)
    server = stand_in(has_adapters=False, transfer="nccl")
    rollout = VLLMGenerator(server.url, str(tmp_path / "weights"), weights="nccl")
    module = A2CModule(
        actor_of(),
        lambda prompts, responses: [0.0] * len(responses),  # noqa: ARG005
        sampling=PARAMS,
        advantages=Advantages(baseline="rloo"),
        rollout=rollout,
    )
    assert module.actor.policy.device.type == "cpu"  # Lightning moves it after `setup`
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    with pytest.raises(ValueError, match="got the trainer on cpu"):
        module.check_inputs(trainer)
    trainer.strategy.root_device = torch.device("cuda", 0)
    module.check_inputs(trainer)


def test_what_was_computed_is_waited_for_before_it_is_sent(monkeypatch):
    order = []
    stream = SimpleNamespace(synchronize=lambda: order.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)  # noqa: ARG005
    client = SimpleNamespace(post=lambda path, body: order.append(path))  # noqa: ARG005
    transfer = WeightTransfer(client, ServerFacts("http://127.0.0.1:1", "served"))
    transfer._engine = SimpleNamespace(send_weights=lambda: order.append("sent"))
    gpu = torch.device("cuda", 0)
    transfer.send(SimpleNamespace(tensors=lambda: iter(()), device=gpu))
    assert order == ["waited", "/pause?mode=wait", "sent", "/resume"]


def test_a_policy_put_together_on_the_host_is_scored_on_the_trainers_device(actor_of):
    model = actor_of().policy
    before = {name: (value, value.data_ptr()) for name, value in model.state_dict().items()}
    with SampledPolicy(model, device=torch.device("meta")).on_device():
        assert {value.device.type for value in model.state_dict().values()} == {"meta"}
        assert {each.device.type for each in model.buffers()} == {"meta"}
    assert {each.device.type for each in model.buffers()} == {"cpu"}
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][1]
        assert torch.equal(value, before[name][0])


@pytest.mark.usefixtures("on_gpu")
def test_a_server_that_takes_nothing_in_ends_the_run(stand_in, actor_of, moved, tmp_path):
    actor = actor_of(None)
    stale = stand_in(has_adapters=False, transfer="nccl", is_stale=True)
    generator, policy = started(stale, actor, tmp_path)
    moved(actor.policy)
    with pytest.raises(ValueError, match="a fixed text the trainer's log-probabilities"):
        generator.update(policy)


@pytest.mark.usefixtures("on_gpu")
def test_a_broken_update_says_to_start_the_server_again(stand_in, actor_of, tmp_path, monkeypatch):
    server = stand_in(has_adapters=False, transfer="nccl", breaks_transfer=True)
    generator, policy = started(server, actor_of(None), tmp_path)
    with pytest.raises(ValueError, match=r"weight transfer is broken.*start it with --weight-tran"):
        generator.update(policy)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("pretended", "said"),
    [
        ({"on_cpu": True}, "trainer and server on GPUs.*got http.* on a CPU"),
        ({"has_dev_routes": False}, "VLLM_SERVER_DEV_MODE=1"),
        ({"transfer": None}, "got no weight transfer; start it with --weight-transfer-config"),
        ({"transfer": "ipc"}, "got ipc; start it with --weight-transfer-config"),
        ({"version": "0.31.2"}, "to be vLLM 0.32, .* got 0.31.2"),
    ],
)
def test_what_nccl_cannot_carry_is_refused(stand_in, actor_of, tmp_path, pretended, said):
    server = stand_in(**{"has_adapters": False, "transfer": "nccl"} | pretended)
    with pytest.raises(ValueError, match=said):
        started(server, actor_of(), tmp_path)


def test_a_trainer_without_a_gpu_or_vllm_is_refused(stand_in, actor_of, tmp_path, monkeypatch):
    server = stand_in(has_adapters=False, transfer="nccl")
    with pytest.raises(ValueError, match="got the trainer on cpu"):
        started(server, actor_of(), tmp_path)
    monkeypatch.setattr(SampledPolicy, "device_type", "cuda")
    with pytest.raises(ValueError, match="vllm 0.32 to be installed beside the trainer.*got none"):
        started(server, actor_of(), tmp_path)
    stand_in_transfer.install(monkeypatch, "0.33.0")
    with pytest.raises(ValueError, match=r"got 0\.33\.0"):
        started(server, actor_of(), tmp_path)


@pytest.mark.server
@pytest.mark.slow
def test_vllms_own_helpers_send_what_they_are_given():
    python = os.environ.get("RLAIF_PL_VLLM_PYTHON")
    if python is None:
        pytest.skip("needs RLAIF_PL_VLLM_PYTHON, a Python with vllm; make server-test has one")
    here = Path(__file__).parent
    said = subprocess.run(
        [python, str(here / "send_by_vllm.py")],
        env={**os.environ, "PYTHONPATH": str(here.parents[1]), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    asked, sent = json.loads(said.stdout.splitlines()[-1])
    paths = [path for path, _ in asked]
    assert paths == [
        "/get_world_size",
        "/init_weight_transfer_engine",
        "/pause?mode=wait",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/resume",
    ]
    bodies = dict(asked)
    joined = bodies["/init_weight_transfer_engine"]["init_info"]
    assert (joined["master_address"], joined["rank_offset"], joined["world_size"]) == (
        "127.0.0.1",
        1,
        2,
    )
    assert bodies["/update_weights"]["update_info"] == {
        "names": ["a.weight", "b.weight"],
        "dtype_names": ["bfloat16", "bfloat16"],
        "shapes": [[2, 3], [4]],
    }
    assert sent == [
        ["torch.bfloat16", [[1.0] * 3] * 2],
        ["torch.bfloat16", [0.0, 1.0, 2.0, 3.0]],
    ]


class Broken(VLLMGenerator):
    """Loses its NCCL group."""

    def update(self, policy):  # noqa: ARG002
        raise RuntimeError("NCCL error: remote process exited")


def test_other_processes_hear_that_nccl_failed(actor_of, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(rollouts, "has_ranks", lambda: True)
    monkeypatch.setattr(rollouts.dist, "barrier", lambda: None)
    monkeypatch.setattr(rollouts.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(rollouts.dist, "broadcast_object_list", lambda sent, src: told.append(sent))  # noqa: ARG005
    asked = rollouts.Rollouts(Broken("http://127.0.0.1:1", str(tmp_path)))
    policy = actor_of().policy
    with pytest.raises(RuntimeError, match="NCCL error"):
        asked.update(lambda: policy, 0)
    assert told == [[None, "NCCL error: remote process exited"]]
