"""Estimates against arithmetic in the comments; Qwen2.5-1.5B has P = 1,543,714,304 weights."""

import pytest
import yaml

from rlaif_pl.pipeline import load_experiment
from rlaif_pl.pipeline.estimate import estimate
from rlaif_pl.pipeline.estimate_labels import label_cost
from rlaif_pl.pipeline.estimate_memory import (
    CONTEXT_BYTES,
    GIB,
    Role,
    frozen_model,
    memory,
    optimizer_bytes,
    partly_trained,
    whole_model,
)
from rlaif_pl.pipeline.estimate_models import KNOWN, ModelShape
from rlaif_pl.pipeline.estimate_training import Network

QWEN = KNOWN["Qwen/Qwen2.5-1.5B"]
P = 1_543_714_304
SMALL = ModelShape(4, 2, 2, 1, 3, 5, 7)


def test_adamw_in_float32_takes_16_bytes_a_weight():
    found = memory(
        [whole_model("policy", QWEN)],
        "adamw",
        activations=0,
        scored_tokens=0,
        vocab=0,
        half=False,
    )
    assert found.weights + found.gradients + found.optimizer == 16 * P
    assert found.total == 16 * P + CONTEXT_BYTES
    assert found.fits(40)
    assert not found.fits(24)  # 23.0 GiB and 2 of 24


def test_ddp_adds_its_buckets_fsdp_divides_and_autocast_keeps_casts():
    roles = [whole_model("policy", QWEN)]
    sizes = {"activations": 0, "scored_tokens": 0, "vocab": 0, "ranks": 8}
    ddp = memory(roles, "adamw", **sizes)
    assert (ddp.buckets, ddp.casts) == (4 * P, 2 * P)
    assert memory(roles, "adamw", **sizes, bucket_views=True).buckets == 0
    fsdp = memory(roles, "adamw", **sizes, sharded=True, gathered=9)
    assert (fsdp.buckets, fsdp.casts) == (0, 9)
    assert fsdp.total == 4 * P + CONTEXT_BYTES  # at the start, when the weights are whole
    assert fsdp.weights + fsdp.gradients + fsdp.optimizer == 16 * P // 8


def test_fsdp2_holds_embeddings_and_two_layers_whole():
    # embedding 7 x 4, last norm 4; a layer 144 - 4 = 140: twice in 16 bits, and its gradient
    whole = Network(SMALL, 2, None, False, True, 4)
    assert whole.gathered(half=True) == 8 * 32 + 3 * 2 * 140
    adapters = Network(SMALL, 2, 2, False, True, 2)
    assert adapters.gathered(half=False) == 2 * 32 + 3 * 4 * 140


def test_adafactor_keeps_a_row_and_a_column_a_matrix():
    role = whole_model("policy", SMALL)
    # embedding 7+4; a layer: (6+4) + 2 (3+4) + (4+6) + 3 (5+4) = 61, norms 8; last norm 4
    assert role.factored == 11 + 2 * (61 + 8) + 4
    assert optimizer_bytes(role, "adafactor") == 4 * 153
    assert optimizer_bytes(role, "sgd") == 0


def test_a_role_that_writes_nothing_keeps_an_output_embedding_of_its_own():
    reward = whole_model("reward", QWEN, writes=False)
    assert (reward.trained, reward.frozen) == (P, 151936 * 1536)


def test_adapters_share_the_frozen_weights():
    first = partly_trained("policy", SMALL, 1, 2, owns=True)
    second = partly_trained("value", SMALL, 1, 2, owns=False)
    assert (first.trained, first.frozen) == (122, 312)
    assert (second.trained, second.frozen) == (122, 0)
    whole_layers = partly_trained("policy", SMALL, 1, None, owns=True)
    assert (whole_layers.trained, whole_layers.frozen) == (144, 168)


def test_logits_are_held_in_rows_and_the_rest_is_avoided():
    found = memory([Role("policy", 0, 0)], "sgd", activations=0, scored_tokens=2048, vocab=151936)
    assert found.logits == 3 * 4 * 256 * 151936
    assert found.logits_avoided == 4 * 2048 * 151936


def test_sampling_and_training_do_not_peak_together():
    sizes = {"scored_tokens": 0, "vocab": 0, "half": False}
    role = [frozen_model("policy", SMALL)]
    assert memory(role, "sgd", activations=5 * GIB, cache=3 * GIB, **sizes).total == (
        2 * 312 + 5 * GIB + CONTEXT_BYTES
    )


def test_chain_of_thought_takes_four_requests_a_pair():
    # Without instructions (no such file): a question of 100 + 2 x 20 = 140 tokens.
    options = {"task": "none", "cot": True}
    cost = label_cost("rlaif_pl.labeling.PairwiseLabeler", options, 10, 100, 20, rationale=61)
    # 2 orders x (140 to write the rationale + 140 + 61 to read it) = 682 a pair; 2 x (61 + 1) written
    assert (cost.requests, cost.read, cost.written) == (40, 6820, 1240)
    plain = label_cost("PairwiseLabeler", {"task": "none"}, 10, 100, 20)
    assert (plain.requests, plain.read, plain.written) == (20, 2800, 20)
    four = label_cost("PairwiseLabeler", {**options, "samples": 4}, 10, 100, 20)
    assert four.requests == 160


def test_the_papers_price_of_a_pair():
    # appendix L: 2 inferences of 830 tokens read and 61 written at 30 and 60 USD a million: 0.057
    cost = label_cost("FreeFormLabeler", {"max_answer_tokens": 61, "task": "none"}, 1, 830, 0)
    assert cost.priced(30, 60).usd == pytest.approx((2 * 830 * 30 + 2 * 61 * 60) / 1e6)


def test_thoughts_and_criteria_are_counted():
    plain = label_cost("ScoreLabeler", {}, 10, 100, 20)
    deep = label_cost("ScoreLabeler", {"thinking": {"max_tokens": 50}}, 10, 100, 20)
    # a call for the thoughts of each of 20 responses, which the second call reads again
    assert deep.requests == 2 * plain.requests == 40
    assert deep.read == 2 * plain.read + 20 * 50
    assert deep.written == plain.written + 20 * 50
    rubric = label_cost("RubricLabeler", {}, 10, 100, 20)
    assert rubric.requests == 2 * 10 * 5  # criteria-summarization-1
    assert label_cost("RubricLabeler", {"task": "helpful"}, 10, 100, 20).requests == 2 * 10 * 4
    assert rubric.read == 100 * (75 + 120)


def test_an_unknown_labeler_is_not_priced():
    assert label_cost("mine.Labeler", {}, 1, 1, 1) is None


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


def test_an_experiment_by_hand(tmp_path):
    expect, (sft, sample, label) = estimate(write(tmp_path))
    assert sft.fit is not None
    # 1000 rows x 2 epochs, 5 x 4 GPUs a step; longest batch 5 x (1.5 x 100 + 50) = 1000 tokens
    assert (sft.fit.rows, sft.fit.steps, sft.fit.effective_batch) == (2000, 100, 20)
    assert sft.fit.without_checkpointing == 1000 * QWEN.activation_bytes(28, False)
    assert sft.fit.with_checkpointing == 1000 * QWEN.activation_bytes(28, True)
    assert sft.fit.flops == 2000 * 3 * QWEN.forward_flops(120, 120, 20)
    assert sft.gpu_hours == sft.fit.flops / (312e12 * 0.35 * 3600)
    # 500 prompts; the model of a folder to be made is that of the stage that makes it
    assert (sample.rows, sample.note) == (500, "")
    written = 500 * 6 * 20
    hours = QWEN.forward_flops(500 * 100, 100) / 0.35
    hours += QWEN.forward_flops(written, 120, written) / 0.01
    assert sample.gpu_hours == pytest.approx(hours / (312e12 * 3600))
    assert label.rows == 1500
    assert label.labels is not None
    assert label.labels.requests == 3000


@pytest.mark.parametrize(
    ("sampling", "responses", "pairs"),
    [({"n": 3}, 4, 10), ({"n": 1, "temperature": 0.0}, 1, 1), ({"n": 1, "temperature": 0.5}, 2, 2)],
)
def test_an_evaluation_is_sampled_and_greedy(tmp_path, sampling, responses, pairs):
    # Two policies; each sampled response is compared with each of the other's, the greedy ones too.
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
    hours = reads * QWEN.forward_flops(10 * 2 * 100, 100) / 0.35
    written = 10 * 2 * responses * 20
    hours += QWEN.forward_flops(written, 120, written) / 0.01
    assert found.gpu_hours == pytest.approx(hours / (312e12 * 3600))
    assert found.labels.requests == 10 * pairs * 2


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
        ({"gpu": 1}, "expect.gpu: unknown key; known are gpus"),
        ({"gpus": 0}, "a number above 0, got 0"),
    ],
)
def test_wrong_assumptions_are_named(tmp_path, expect, words):
    with pytest.raises(ValueError, match=words):
        estimate(write(tmp_path, expect=expect))


def a2c_roles(tmp_path, **actor):
    """Name and size of the roles of an A2C stage on Qwen2.5-1.5B."""
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
                    "reward": {
                        "class_path": "rlaif_pl.models.RewardModel",
                        "init_args": {"backbone": {"name": "Qwen/Qwen2.5-0.5B"}},
                    },
                },
            },
            "data": {"prompts": "mine"},
        },
    }
    _, (found,) = estimate(write(tmp_path, expect={}, stages=[stage]))
    assert found.fit is not None
    assert found.fit.rows == 80  # 10 steps of 8
    return {role.name: (role.trained, role.frozen) for role in found.fit.roles}


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
