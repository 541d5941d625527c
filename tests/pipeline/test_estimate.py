"""Estimates against arithmetic in the comments; Qwen2.5-1.5B has P = 1,543,714,304 weights."""

import copy

import pytest
import yaml

from rlaif_pl.pipeline import load_experiment
from rlaif_pl.pipeline.estimate import build, estimate, label_cost
from rlaif_pl.pipeline.estimate_inputs import Expect, known_shape
from rlaif_pl.pipeline.estimate_training import CONTEXT_BYTES, GIB, Memory, Network, Role

QWEN = known_shape("Qwen/Qwen2.5-1.5B")
P = 1_543_714_304
WHOLE = Network(QWEN, top=28)


def test_adamw_in_float32_takes_16_bytes_a_weight():
    found = Memory([WHOLE.role("policy")], half=False)
    assert found.weights + found.gradients + found.optimizer == 16 * P
    assert found.total == 16 * P + CONTEXT_BYTES
    assert Memory([WHOLE.role("policy")], moments=0, half=False).optimizer == 0


def test_ddp_adds_its_buckets_fsdp_divides_and_autocast_keeps_casts():
    roles = [WHOLE.role("policy")]
    ddp = Memory(roles, ranks=8)
    assert (ddp.gradients, ddp.weights) == ((4 + 4) * P, (4 + 2) * P)
    assert Memory(roles, ranks=8, bucket_views=True).gradients == 4 * P
    fsdp = Memory(roles, ranks=8, sharded=True, gathered=9)
    assert fsdp.weights + fsdp.gradients + fsdp.optimizer == 16 * P // 8 + 9
    assert fsdp.total == 4 * P + CONTEXT_BYTES  # at the start, when the weights are whole


def test_fsdp2_gives_each_role_a_copy_and_leaves_the_reward_whole():
    adapters, trunk = Network(QWEN, top=8, rank=8), 20 * QWEN.layer
    policy, reward = adapters.role("policy", owns=False), Role("reward", 0, 30, stays_whole=True)
    found = Memory([Role("reference", 0, P), policy, reward], ranks=8, sharded=True)
    trained = 4 * policy.trained
    assert found.weights == (trained + 2 * P + 2 * (P - trunk)) // 8 + 60
    assert found.total == trained + 2 * P + 60 + CONTEXT_BYTES  # whole, once, at the start


def test_fsdp2_holds_embeddings_and_two_layers_whole():
    layers = 28 * QWEN.layer
    assert WHOLE.gathered(half=True) == 8 * (P - layers) + 3 * 2 * QWEN.layer
    adapters = Network(QWEN, top=28, rank=8)
    assert adapters.gathered(half=False) == 2 * (P - layers) + 3 * 4 * QWEN.layer


def test_a_role_that_writes_nothing_keeps_an_output_embedding_of_its_own():
    reward = WHOLE.role("reward", writes=False)
    assert (reward.trained, reward.frozen) == (P, 151936 * 1536)


def test_adapters_share_the_frozen_weights():
    # rank 8 a layer: q and o 2 (1536 + 1536), k and v 2 (1536 + 256), 3 (1536 + 8960); 2 layers
    adapters = 2 * 8 * (6144 + 3584 + 31488)
    network = Network(QWEN, top=2, rank=8)
    first, second = network.role("policy"), network.role("value", owns=False)
    assert (first.trained, first.frozen) == (adapters, P)
    assert (second.trained, second.frozen) == (adapters, 0)
    layers = Network(QWEN, top=2).role("policy")
    assert layers.trained + layers.frozen == P
    assert layers.trained == 2 * QWEN.layer + 1536


def test_logits_are_held_in_rows():
    found = Memory([Role("policy", 0, 0)], scored_tokens=2048, vocab=151936)
    assert found.logits == 3 * 4 * 256 * 151936


def test_sampling_and_training_do_not_peak_together():
    role = Role("policy", 0, 312)
    found = Memory([role], half=False, activations=5 * GIB, cache=3 * GIB)
    assert found.total == 2 * 312 + 5 * GIB + CONTEXT_BYTES


def cost(options, kind="PairwiseLabeler", **expect):
    """Calls, tokens read and tokens written for ten pairs."""
    labeler = build({"class_path": f"rlaif_pl.labeling.{kind}", "init_args": options})
    expected = Expect(**{"prompt_tokens": 100, "response_tokens": 20, **expect})
    found = label_cost(labeler, 10, expected)
    return found.calls, found.read, found.written


def test_chain_of_thought_takes_four_requests_a_pair():
    # 2 orders x (one that writes the rationale of 61 tokens + one that reads it and writes a verdict)
    calls, read, written = cost({"cot": True}, rationale_tokens=61)
    assert (calls, written) == (40, 10 * 2 * (61 + 1))
    # 100 tokens more in a prompt are read four times a pair, 10 more in a response eight times
    assert cost({"cot": True}, prompt_tokens=200)[1] - read == 10 * 4 * 100
    assert cost({"cot": True}, response_tokens=30)[1] - read == 10 * 8 * 10
    assert cost({"cot": True}, rationale_tokens=81)[1] - read == 10 * 2 * 20
    assert cost({"cot": {"samples": 4, "temperature": 1.0}})[0] == 160
    assert (cost({})[0], cost({})[2]) == (20, 20)


def test_one_pair_stands_for_all_of_a_stage():
    one, many = (
        label_cost(build("pairwise"), n, Expect(prompt_tokens=100, response_tokens=20))
        for n in (1, 10**9)
    )
    assert (many.pairs, many.sampled, many.calls) == (10**9, 1, one.calls * 10**9)
    assert label_cost(build("pairwise"), 0, Expect()).calls == 0


def test_a_text_is_as_long_as_expected_but_for_its_limit():
    # appendix L: 2 inferences a pair with 61 tokens written
    assert cost({}, "FreeFormLabeler", rationale_tokens=61)[2] == 10 * 2 * 61
    assert cost({"max_answer_tokens": 8}, "FreeFormLabeler")[2] == 10 * 2 * 8


def test_thoughts_and_criteria_are_counted():
    options = {"chat_template": True}
    calls, read, written = cost(options, "ScoreLabeler")
    deep = cost({**options, "thinking": {"max_tokens": 50}}, "ScoreLabeler")
    # a call for the thoughts of each of 20 responses, which the second call reads again
    assert deep == (2 * calls, pytest.approx(2 * read + 20 * 50), written + 20 * 50)
    assert calls == 20
    assert cost({}, "RubricLabeler")[0] == 2 * 10 * 5  # criteria-summarization-1
    assert cost({"task": "helpful"}, "RubricLabeler")[0] == 2 * 10 * 4


def test_an_ensemble_costs_what_its_members_do():
    member = {"class_path": "rlaif_pl.labeling.PairwiseLabeler"}
    both = [member, {**member, "init_args": {"cot": True}}]
    assert cost({"labelers": both}, "EnsembleLabeler")[0] == 20 + 40


EXPERIMENT = {
    "name": "toy",
    "expect": {
        "gpus": 4,
        "prompt_tokens": 100,
        "response_tokens": 20,
        "usd_per_gpu_hour": 2.0,
        "rows": {"mine": 1000},
        "num_params": {"my/model": 3e9},
    },
    "stages": [
        {
            "name": "sft",
            "command": "fit",
            "needs": [],
            "set": {
                "trainer": {"max_epochs": 2, "devices": "auto", "precision": "bf16-mixed"},
                "model": {
                    "class_path": "rlaif_pl.training.SFTModule",
                    "init_args": {
                        "backbone": {"name": "Qwen/Qwen2.5-1.5B"},
                        "max_response_tokens": 50,
                    },
                },
                "data": {"demonstrations": "mine", "validation": "other", "batch_size": 5},
            },
        },
        {
            "name": "sample",
            "command": "sample",
            "set": {
                "policy": {"name": "${out}/sft/policy"},
                "prompts": {"name": "mine", "part": [0.0, 0.5]},
                "sampling": {"n": 6},
            },
        },
        {
            "name": "label",
            "command": "label",
            "set": {"pairs": "${out}/sample/pairs.jsonl", "labeler": "likelihood"},
        },
    ],
}


def write(tmp_path, **changes):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, **changes}))
    return load_experiment(path)


def test_references_that_are_learned_whole_are_longer_than_their_mean(tmp_path):
    stages = copy.deepcopy(EXPERIMENT["stages"])
    del stages[0]["set"]["model"]["init_args"]["max_response_tokens"]
    _, (sft, *_) = estimate(write(tmp_path, stages=stages))
    # longest batch 5 x (1.5 x 100 + 1.5 x 20) = 900 tokens
    assert sft.fit.activations(checkpointing=False) == 900 * QWEN.activation_bytes(28, False)


def test_an_experiment_by_hand(tmp_path):
    expect, (sft, sample, label) = estimate(write(tmp_path))
    assert sft.fit is not None
    # 1000 rows x 2 epochs, 5 x 4 GPUs a step; longest batch 5 x (1.5 x 100 + 50) = 1000 tokens
    assert (sft.fit.rows, sft.fit.effective_batch) == (2000, 20)
    assert sft.fit.activations(checkpointing=False) == 1000 * QWEN.activation_bytes(28, False)
    assert sft.fit.activations(checkpointing=True) == 1000 * QWEN.activation_bytes(28, True)
    assert sft.fit.flops == 2000 * 3 * QWEN.forward_flops(120, 120, 20)
    assert sft.gpu_hours == sft.fit.flops / (312e12 * 0.35 * 3600)
    # 500 prompts; the model of a folder to be made is that of the stage that makes it
    assert (sample.rows, sample.note) == (500, "")
    written = 500 * 6 * 20
    hours = QWEN.forward_flops(500 * 100, 120) / 0.35
    hours += QWEN.forward_flops(written, 120, written) / 0.01
    assert sample.gpu_hours == pytest.approx(hours / (312e12 * 3600))
    assert label.rows == 1500
    assert label.labels is not None
    assert label.labels.calls == 3000


@pytest.mark.parametrize(
    ("sampling", "responses", "pairs"),
    [
        ({"n": 3}, 4, 10 + 8),
        ({"n": 1, "temperature": 0.0}, 1, 1 + 2),
        ({"n": 1, "temperature": 0.5}, 2, 2 + 4),
    ],
)
def test_an_evaluation_is_sampled_and_greedy(tmp_path, sampling, responses, pairs):
    # Two policies; each sampled response is compared with each of the other's, the greedy ones too;
    # and every response with the reference.
    stage = {
        "name": "evaluate",
        "command": "evaluate policy",
        "needs": [],
        "set": {
            "policy": {"name": "Qwen/Qwen2.5-1.5B"},
            "prompts": "mine",
            "sampling": sampling,
            "labeler": "likelihood",
        },
    }
    expect = {**EXPERIMENT["expect"], "rows": {"mine": 10}}
    _, (found,) = estimate(write(tmp_path, stages=[stage], expect=expect))
    reads = 2 if responses > sampling["n"] else 1
    hours = reads * QWEN.forward_flops(10 * 2 * 100, 120) / 0.35
    written = 10 * 2 * responses * 20
    hours += QWEN.forward_flops(written, 120, written) / 0.01
    assert found.gpu_hours == pytest.approx(hours / (312e12 * 3600))
    assert found.labels.calls == 10 * pairs * 2
    assert found.note == "if prompts have references"
    stage["set"]["reward.init_args.labeler"] = {"class_path": "rlaif_pl.labeling.ScoreLabeler"}
    _, (direct,) = estimate(write(tmp_path, stages=[stage], expect=expect))
    assert direct.labels == found.labels
    assert direct.note == "if prompts have references; without the reward's labeler"


def test_what_is_not_known_is_said(tmp_path):
    expect = {"gpus": 1}
    _, (sft, sample, label) = estimate(write(tmp_path, expect=expect))
    assert sft.note == sample.note == label.note == "rows not known: give expect.rows"
    stages = [{**EXPERIMENT["stages"][0]}]
    stages[0]["set"] = {
        **stages[0]["set"],
        "model": {
            "class_path": "rlaif_pl.training.SFTModule",
            "init_args": {"backbone": {"name": "my/model"}},
        },
    }
    _, (unknown,) = estimate(write(tmp_path, expect={}, stages=stages))
    assert "size of my/model not known: give expect.num_params" in unknown.note
    _, (given,) = estimate(write(tmp_path, stages=stages))
    assert given.fit.roles[0].trained == pytest.approx(3e9, rel=0.2)


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ({"gpu": 1}, "'expect' does not accept option 'gpu'; keys of expect: gpus, tflops"),
        ({"gpus": 0}, "expect.gpus.*PositiveInt: 0 does not"),
    ],
)
def test_wrong_assumptions_are_named(tmp_path, expect, words):
    with pytest.raises(ValueError, match=words):
        estimate(write(tmp_path, expect=expect))


def test_a_labeler_that_cannot_be_built_is_said(tmp_path):
    stage = {**EXPERIMENT["stages"][2], "needs": []}
    stage["set"] = {"pairs": "mine", "labeler": {"class_path": "mine.Labeler"}}
    _, (found,) = estimate(write(tmp_path, stages=[stage]))
    assert found.labels is None
    assert found.note.startswith("no estimate: ")
    assert "mine.Labeler" in found.note


JUDGE = {
    "class_path": "rlaif_pl.models.RewardModel",
    "init_args": {"backbone": {"name": "Qwen/Qwen2.5-0.5B"}},
}
ASKED = {
    "class_path": "rlaif_pl.labeling.LabelerReward",
    "init_args": {
        "labeler": {
            "class_path": "rlaif_pl.labeling.LikelihoodLabeler",
            "init_args": {"backend": {"class_path": "rlaif_pl.labeling.LocalBackend"}},
        }
    },
}
BOTH = {"class_path": "rlaif_pl.rl.WeightedRewards", "init_args": {"rewards": [JUDGE, ASKED]}}


def a2c_stage(tmp_path, reward=JUDGE, **actor):
    """Estimate of an A2C stage on Qwen2.5-1.5B."""
    stage = {
        "name": "a2c",
        "command": "fit",
        "needs": [],
        "set": {
            "trainer": {"max_steps": 10, "devices": 1, "precision": "bf16-mixed"},
            "model": {
                "class_path": "rlaif_pl.training.A2CModule",
                "init_args": {
                    "actor": {
                        "class_path": "rlaif_pl.models.ActorCritic",
                        "init_args": {"backbone": {"name": "Qwen/Qwen2.5-1.5B"}, **actor},
                    },
                    "reward": reward,
                },
            },
            "data": {"prompts": "mine"},
        },
    }
    _, (found,) = estimate(write(tmp_path, expect={}, stages=[stage]))
    assert found.fit is not None
    assert found.fit.rows == 80  # 10 steps of 8
    return found


def a2c_roles(tmp_path, **actor):
    """Name and size of the roles of that stage."""
    roles = a2c_stage(tmp_path, **actor).fit.roles
    return {role.name: (role.trained, role.frozen) for role in roles}


def test_a_whole_actor_is_a_reference_and_two_trained_copies(tmp_path):
    assert a2c_roles(tmp_path) == {
        "reference": (0, P),
        "policy": (P, 0),
        "value": (P, 151936 * 1536),
        "reward": (0, 494_032_768),
    }


def test_with_adapters_policy_and_value_share_the_reference(tmp_path):
    # rank 8 a layer: q and o 2 (1536 + 1536), k and v 2 (1536 + 256), 3 (1536 + 8960)
    adapters = 28 * 8 * (6144 + 3584 + 31488)
    roles = a2c_roles(tmp_path, lora={"r": 8})
    assert roles["policy"] == roles["value"] == (adapters, 0)
    assert roles["reference"] == (0, P)


@pytest.mark.parametrize("kind", ["reference_features", "shared_trunk", "none"])
def test_a_value_head_alone_is_no_role(tmp_path, kind):
    assert "value" not in a2c_roles(tmp_path, value_network=kind)


@pytest.mark.parametrize("reward", [[JUDGE, ASKED], BOTH], ids=["list", "weighted"])
def test_each_of_several_rewards_is_counted(tmp_path, reward):
    found, alone = a2c_stage(tmp_path, reward), a2c_stage(tmp_path, ASKED)
    assert [role.frozen for role in found.fit.roles if role.name == "reward"] == [494_032_768]
    assert not [role for role in alone.fit.roles if role.name == "reward"]
    assert found.labels is not None
    assert found.labels == alone.labels


def test_all_labelers_of_several_rewards_are_counted(tmp_path):
    alone, twice = a2c_stage(tmp_path, ASKED), a2c_stage(tmp_path, [ASKED, JUDGE, ASKED])
    assert twice.labels.calls == 2 * alone.labels.calls > 0
    assert twice.labels.read == 2 * alone.labels.read
    assert twice.server_hours == pytest.approx(2 * alone.server_hours)
    assert twice.labeler == alone.labeler


def test_a_labeler_of_no_estimate_hides_no_other(tmp_path):
    wrong = {"class_path": "mine.Reward", "init_args": {"labeler": {"class_path": "mine.Labeler"}}}
    alone, both = a2c_stage(tmp_path, ASKED), a2c_stage(tmp_path, [ASKED, wrong])
    assert both.labels == alone.labels
    assert "mine.Labeler" in both.note
