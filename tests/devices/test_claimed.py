"""On a GPU nothing is on the wrong device, and the host waits as seldom as is said.

The GPU is claimed (``tests/plugins/claimed.py``). ``make cuda-check`` runs this file with a torch
that is built with CUDA, where torch's fake tensors on cuda are asked about every op as well.
"""

import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from rlaif_pl import ops
from rlaif_pl.engine.attention import segments
from rlaif_pl.engine.attention.leaf import Attended, Scoring, merge_attention_states
from rlaif_pl.engine.attention.segments import attend
from rlaif_pl.engine.batch import Segment, pack_segments
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.labeling import LikelihoodLabeler, LocalBackend
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.models.policy import load_policy
from rlaif_pl.ops import _products
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.text import Template
from rlaif_pl.training import A2CModule, RewardModule, SFTModule
from rlaif_pl.types import Batch

TOKENS = 16
PER_CALL = 1  # waits of a call that samples, besides one in 16 tokens
PER_STEP = 3  # waits of a training step, besides those of sampling
LORA = Lora(r=4, alpha=8)
DRAWS = {
    "plain": SamplingParams(n=2, max_new_tokens=TOKENS),
    "greedy": SamplingParams(n=2, max_new_tokens=TOKENS, temperature=0),
    "filters": SamplingParams(n=2, max_new_tokens=TOKENS, top_k=20, top_p=0.9, min_p=0.05),
}


@pytest.fixture(params=["float32", "bfloat16"])
def options(request, tiny_model_folder):
    """A backbone in each type: plain products for float32, FlashAttention for 16 bits."""
    return BackboneOptions(str(tiny_model_folder), trunk_layers=2, dtype=request.param)


@pytest.fixture
def prompts(small_prompts):
    return [row.text for row in small_prompts[:3]]


def batch_of(rows):
    return Batch(rows, range(len(rows)), [False] * len(rows))


def test_torch_is_asked_about_every_op_where_that_is_promised(gpu):
    if os.environ.get("RLAIF_PL_REQUIRE_FAKES") != "1":
        pytest.skip("make cuda-check promises it")
    assert gpu.fake is not None


def test_it_computes_what_the_cpu_does_with_gradients(gpu):
    layer, inputs = nn.Linear(4, 3), torch.randn(2, 4)
    layer(inputs).square().sum().backward()
    want, layer.weight.grad = layer.weight.grad, None
    there = gpu.move(layer)(inputs.to("cuda"))
    assert there.device.type == "cuda"
    there.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad.cpu(), want)


def test_it_refuses_tensors_of_the_cpu(gpu):
    with pytest.raises(RuntimeError, match="got one on the CPU"):
        torch.ones(2, device="cuda") + torch.ones(2)
    with pytest.raises(TypeError, match="convert cuda:0"):
        torch.ones(2, device="cuda").numpy()


@pytest.mark.parametrize(
    ("ask", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: (x > 0).nonzero(), 1),
        (lambda x: x[[0, 1]], 1),
        (lambda x: torch.tensor([1.0], device="cuda"), 1),
        (lambda x: torch.ones(2).to("cuda", non_blocking=True), 1),
        (lambda x: torch.ones(2).pin_memory().to("cuda", non_blocking=True), 0),
        (lambda x: x.masked_fill(x > 0, 1.0), 0),
        (lambda x: x.index_select(0, torch.zeros(1, dtype=torch.int64, device="cuda")), 0),
    ],
)
def test_it_notes_where_the_host_waits(gpu, ask, waits):
    numbers = torch.ones(3, device="cuda")
    with gpu.counted() as found:
        ask(numbers)
    assert sum(found.values()) == waits, found


@pytest.mark.parametrize("draw", DRAWS)
def test_a_sampled_token_waits_once_in_sixteen(gpu, options, prompts, draw):
    policy = gpu.move(load_policy(options, Template()))
    rows = policy.encode_prompts(prompts)
    assert policy.top.capabilities.packs
    assert policy.trunk.capabilities.packs  # tried once a model, with waits of its own
    for close in (False, True):
        longer = replace(DRAWS[draw], max_new_tokens=32)
        with gpu.counted() as found:
            drawn = policy.sample(rows, longer, range(6), keep_trunk=close, close=close)
        longest = max(map(len, drawn.tokens))
        # with close two more tokens are run, after each of which the host looks
        assert sum(found.values()) <= -(-longest // 16) + PER_CALL + close, found


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("lengths", [(1, 0, 1), (0, 0, 0), (0, 1, 2)])
def test_flash_attention_takes_prefixes_that_one_text_or_none_goes_on_from(gpu, heads, lengths):
    query, key, value = (torch.randn(6 + sum(lengths), n, 8).half() for n in (*heads, heads[1]))
    levels = [
        [Segment(3), Segment(1), Segment(2)],
        [Segment(length, n) for n, length in enumerate(lengths)],
    ]
    qkv = query, key, value
    found = attend([*map(gpu.claim, qkv)], pack_segments(levels, "cuda"))
    expected = attend([t.float() for t in qkv], pack_segments(levels, "cpu"))
    torch.testing.assert_close(found.float().cpu(), expected, rtol=0, atol=5e-3)


def test_one_response_a_prompt_goes_on_where_another_has_ended(gpu, tiny_model_folder, prompts):
    """At the first look a prompt has no query left, another one: FlashAttention's swap of heads."""
    options = BackboneOptions(str(tiny_model_folder), dtype="bfloat16")
    policy = gpu.move(load_policy(options, Template()))
    ends = list(range(2, len(policy.tokenizer), 12))
    draw = SamplingParams(max_new_tokens=48, stop_token_ids=ends)
    drawn = policy.sample(policy.encode_prompts(prompts), draw, range(3))
    lengths = sorted(map(len, drawn.tokens))
    assert lengths[0] < TOKENS < lengths[-1], lengths


LEVELS = [[Segment(5), Segment(3)], [Segment(4), Segment(1), Segment(20, 1)]]


def attended(attend, place, size, dtype, **options):
    """Attention of a packed batch with shared key heads on a device, brought to the host."""
    batch = pack_segments(LEVELS, place)
    generator = torch.Generator().manual_seed(3)
    shapes = [(len(batch), heads, size) for heads in (4, 2, 2)]
    qkv = [torch.randn(shape, generator=generator).to(dtype).to(place) for shape in shapes]
    return attend(qkv, batch, **options).cpu()


@pytest.mark.parametrize(
    ("size", "capability"), [(12, (9, 0)), (264, (9, 0)), (16, (7, 5)), (16, (9, 0))]
)
def test_heads_and_gpus_that_flash_attention_refuses_are_computed_without_it(gpu, size, capability):
    gpu.capability = capability
    there, here = (
        attended(segments.attend, place, size, torch.bfloat16) for place in ("cuda", "cpu")
    )
    torch.testing.assert_close(there, here, rtol=0, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [3, None])
def test_shared_key_heads_go_to_a_fused_kernel_with_a_window_too(gpu, dtype, window):
    there, here = (
        attended(segments.attend_by_text, place, 16, dtype, scoring=Scoring(None, window))
        for place in ("cuda", "cpu")
    )
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(there, here, rtol=0, atol=tolerance)


def test_states_are_merged_as_on_the_cpu(gpu):
    one, other = (Attended(torch.randn(3, 2, 4), torch.randn(3, 2)) for _ in range(2))
    nothing = Attended(torch.zeros(3, 2, 4), torch.full((3, 2), -torch.inf))
    for pair in ((one, other), (one, nothing), (nothing, one), (nothing, nothing)):
        there = [Attended(*(part.to("cuda") for part in state)) for state in pair]
        found = [part.cpu() for part in merge_attention_states(*there)]
        torch.testing.assert_close(found, list(merge_attention_states(*pair)))


@pytest.mark.parametrize(("draw", "network"), [("plain", "adapter"), ("filters", "shared_trunk")])
def test_a_step_of_reinforcement_learning(gpu, options, small_prompts, draw, network):
    actor = gpu.move(ActorCritic(options, lora=LORA, value_network=network))
    reward = gpu.move(RewardModel(options, lora=LORA))
    objective = {"advantages": Advantages(whiten=True), "ent_coef": 0.01}
    module = A2CModule(actor, reward, sampling=DRAWS[draw], **objective)
    batch = batch_of(small_prompts[:3])
    module.training_step(batch, 0)
    with gpu.counted() as sampling:
        module.rollout(batch, 0)
    # the reward is read at the end: two more tokens are run, after each of which the host looks
    assert sum(sampling.values()) <= -(-TOKENS // 16) + PER_CALL + 1, sampling
    with gpu.counted() as found:
        module.training_step(batch, 0).backward()
    assert sum(found.values()) <= sum(sampling.values()) + PER_STEP, found
    assert all(p.grad is not None for name, p in module.trained().items() if "critic" not in name)


def test_a_step_on_demonstrations(gpu, options, small_prompts):
    module = gpu.move(SFTModule(options, LORA))
    batch = batch_of(small_prompts[:3])
    module.training_step(batch, 0)
    with gpu.counted() as found:
        module.training_step(batch, 0).backward()
    assert not found


@pytest.mark.parametrize("pooling", ["eos", "mean"])
def test_a_step_on_pairs(gpu, options, small_pairs, pooling):
    module = gpu.move(RewardModule(RewardModel(options, lora=LORA, pooling=pooling)))
    batch = batch_of(small_pairs[:3])
    module.training_step(batch, 0)
    with gpu.counted() as found:
        module.training_step(batch, 0).backward()
    assert not found


def test_a_labeler(gpu, tiny_model_folder, small_pairs):
    pairs = [(pair.prompt, pair.first) for pair in small_pairs[:4]]
    prompts, responses = map(list, zip(*pairs, strict=True))
    places = ("cuda", "cpu")
    labelers = [
        LikelihoodLabeler(LocalBackend(str(tiny_model_folder), device=place, dtype="float32"))
        for place in places
    ]
    there, here = (labeler.score(prompts, responses) for labeler in labelers)
    torch.testing.assert_close(torch.as_tensor(there), torch.as_tensor(here), rtol=0, atol=1e-4)
    with gpu.counted() as found:  # other texts, since those are known by now
        labelers[0].score(responses, prompts)
    assert sum(found.values()) == 1, found  # all fit into one batch, which is read once


def test_sizes_of_batches_follow_the_memory_of_a_gpu(gpu):
    weight = torch.zeros(4096, 8)
    cuts = [list(_products.blocks(w[:3000], w)) for w in (weight, weight.to("cuda"))]
    assert len(cuts[0]) > 1  # 2^21 logits at a time
    assert len(cuts[1]) == 1  # 80 GiB: 2^24 and more
    assert ops.device_memory(torch.device("cpu")) == 0
