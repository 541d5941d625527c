"""VLLMGenerator against a stand-in that really loads what it is sent."""

import _thread
import time

import pytest
import torch

from rlaif_pl.cli.commands.doctor import server_facts
from rlaif_pl.engine import SamplingParams
from rlaif_pl.models import BackboneOptions, Lora, load_policy
from rlaif_pl.models.adapter_export import save_adapter
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.recipes.rest_samples import Drawing, draw_samples
from rlaif_pl.rl import GenerationBackend, LocalGenerator, VLLMGenerator
from rlaif_pl.rl.generate import generate
from rlaif_pl.rl.rollout import collect
from rlaif_pl.rl.vllm.client import Client, Servers
from rlaif_pl.rl.vllm.facts import measured_mode, read_facts
from rlaif_pl.text import Template
from rlaif_pl.types import Prompt

PROMPTS = ["Water the plants.", "A cat", "It rains today, so"]
PARAMS = SamplingParams(n=2, max_new_tokens=6)
SEEDS = [10, 11, 20, 21, 30, 31]


class Length:
    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        return torch.tensor([float(len(text)) for text in responses])


@pytest.fixture
def generator_of(tmp_path):
    """Return a maker of generators over stand-ins."""

    def make(*servers, **settings):
        settings = {"tolerance": 1e-4, "timeout_s": 20.0, **settings}
        return VLLMGenerator([each.url for each in servers], str(tmp_path / "weights"), **settings)

    return make


def start(generator, actor, params=PARAMS):
    policy = SampledPolicy(actor.policy)
    generator.prepare(policy, params, for_training=True)
    generator.update(policy)
    return policy


def roll(generator, actor, params=PARAMS):
    return collect(actor, Length(), PROMPTS, params=params, seeds=SEEDS, generator=generator)


def test_both_are_backends(generator_of, stand_in):
    assert isinstance(LocalGenerator(), GenerationBackend)
    assert isinstance(generator_of(stand_in()), GenerationBackend)


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None])
def test_each_update_is_what_the_server_draws_from(
    generator_of, stand_in, actor_of, moved, tmp_path, lora
):
    server = stand_in(has_adapters=lora is not None)
    actor = actor_of(lora, trunk_layers=0 if lora is None else 2)
    generator = generator_of(server)
    policy = start(generator, actor)
    texts = set()
    for _ in range(3):
        moved(actor.policy)
        generator.update(policy)
        rollout = roll(generator, actor)
        own = actor.policy.logprobs(rollout.batch, rollout.below)
        torch.testing.assert_close(own, rollout.sampler_logprobs, rtol=0, atol=1e-4)
        texts.add(tuple(rollout.texts))
    assert len(texts) == 3
    kept = list((tmp_path / "weights").iterdir())  # the present weights, and no earlier ones
    assert len(kept) == 1
    assert list(server.loaded) == ([kept[0].name] if lora else [])
    assert ("/reset_prefix_cache" in server.log) is (lora is None)


def test_rest_sends_a_policy_that_the_server_was_not_started_with(
    generator_of, stand_in, actor_of, moved, tmp_path
):
    server, actor = stand_in(has_adapters=False), actor_of(None, trunk_layers=0)
    moved(actor.policy)
    folder = save_policy(tmp_path / "improved", actor.policy)
    policy = load_policy(BackboneOptions(str(folder)), Template())
    drawing = Drawing(sampling=PARAMS, chunk=2, generator=generator_of(server))
    prompts = [Prompt(text, text) for text in PROMPTS]
    rows = draw_samples(
        tmp_path / "samples.jsonl", policy, Length(), prompts, drawing, grow=1, seed=0
    )
    assert len(rows) == 6
    assert server.log.count("/collective_rpc") == 1  # for both chunks
    assert not list((tmp_path / "weights").iterdir())  # nothing is left of it
    assert drawing.identity["generator"] == "VLLMGenerator"
    assert Drawing(sampling=PARAMS).identity["generator"] is None


def test_settings_are_sent_and_the_ends_are_the_trainers(generator_of, stand_in, actor_of):
    server, actor = stand_in(mode="processed_logprobs"), actor_of()
    params = SamplingParams(n=2, max_new_tokens=6, temperature=0.7, top_k=9, stop_token_ids=(7,))
    generator = generator_of(server)
    start(generator, actor, params)
    rollout = roll(generator, actor, params)
    body = server.asked[-1]
    sent = {key: body[key] for key in ("temperature", "top_k", "top_p", "min_p", "n", "ignore_eos")}
    assert sent == {
        "temperature": 0.7, "top_k": 9, "top_p": 1.0, "min_p": 0.0, "n": 2, "ignore_eos": True,
    }  # fmt: skip
    assert body["stop_token_ids"] == [1, 2, 7]
    assert body["seed"] in SEEDS[::2]
    own = actor.policy.logprobs(rollout.batch, rollout.below, params)
    torch.testing.assert_close(own, rollout.sampler_logprobs, rtol=0, atol=1e-4)


def test_the_same_seeds_give_the_local_samplers_texts(generator_of, stand_in, actor_of):
    generator, actor = generator_of(stand_in()), actor_of()
    start(generator, actor)
    assert roll(generator, actor).texts == roll(LocalGenerator(), actor).texts


def test_greedy_is_asked_once_and_stop_strings_end_a_text(generator_of, stand_in, actor_of):
    server, actor = stand_in(), actor_of()
    generator = generator_of(server)
    policy = start(generator, actor)
    rows = actor.policy.encode_prompts(PROMPTS)
    greedy = SamplingParams(n=2, max_new_tokens=6, temperature=0.0)
    found = generator.generate(policy, rows, greedy, SEEDS)
    assert server.asked[-1]["n"] == 1
    assert found.tokens == actor.policy.sample(rows, greedy, SEEDS).tokens
    word = actor.policy.decode(found.tokens[0][1:2])
    ended = generator.generate(
        policy, rows, SamplingParams(n=2, max_new_tokens=6, temperature=0.0, stop=(word,)), SEEDS
    )
    assert len(ended.tokens[0]) <= 2
    assert ended.finished[0]
    assert len(ended.logprobs[0]) == len(ended.tokens[0])


def test_a_stale_server_ends_the_run(generator_of, stand_in, actor_of, moved):
    server, actor = stand_in(), actor_of()
    generator = generator_of(server)
    policy = start(generator, actor)
    server.is_stale = True
    moved(actor.policy)
    with pytest.raises(ValueError, match=r"fixed text the trainer's log-probabilities .*got 0\.\d"):
        generator.update(policy)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_servers_rounding_is_allowed_and_other_weights_are_not(
    generator_of, stand_in, actor_of, moved, dtype, is_told
):
    server, actor = stand_in(dtype=dtype, has_dev_routes=is_told), actor_of()
    generator = generator_of(server, tolerance=None)
    policy = start(generator, actor)
    for _ in range(3):
        moved(actor.policy, 0.02)
        generator.update(policy)
        assert generator.gap < generator.allowed
        assert (generator.gap > 1e-3) is (dtype == "bfloat16")
        assert (generator.allowed == 1e-3) is (is_told and dtype == "float32")
    server.is_stale = True
    moved(actor.policy)
    with pytest.raises(ValueError, match=r"fixed text the trainer's log-probabilities .*got 0\.\d"):
        generator.update(policy)


def test_a_dead_server_is_dropped_and_its_prompts_are_asked_elsewhere(
    generator_of, stand_in, actor_of
):
    first, second, actor = stand_in(), stand_in(), actor_of()
    generator = generator_of(first, second, concurrency=1)
    start(generator, actor)
    expected = roll(generator, actor).texts
    first.dies_after = len(first.asked)
    with pytest.warns(UserWarning, match=f"servers left: {second.url}"):
        assert roll(generator, actor).texts == expected
    second.dies_after = 0
    with pytest.warns(UserWarning, match="none"), pytest.raises(ConnectionError) as caught:
        roll(generator, actor)
    said = str(caught.value)
    assert first.url in said
    assert second.url in said
    assert "resume the run from its last checkpoint" in said


def test_a_slow_server_is_named(generator_of, stand_in, actor_of):
    server, actor = stand_in(), actor_of()
    generator = generator_of(server, timeout_s=0.3)
    generator.prepare(SampledPolicy(actor.policy), PARAMS, for_training=True)
    server.delay_s = 1.0
    with (
        pytest.warns(UserWarning, match="no answer"),
        pytest.raises(ConnectionError, match="no answer .* within 0.3 s"),
    ):
        generator.update(SampledPolicy(actor.policy))


@pytest.mark.parametrize(
    ("pretended", "lora", "params", "message"),
    [
        ({"has_adapter_route": False}, 4, PARAMS, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ({"has_adapters": False}, 4, PARAMS, "add --enable-lora --max-lora-rank 8"),
        ({"max_rank": 8}, 12, PARAMS, "takes up to 8; start it with --max-lora-rank 16"),
        ({"has_dev_routes": False}, None, PARAMS, "VLLM_SERVER_DEV_MODE=1"),
        ({}, None, PARAMS, "started without --enable-lora to take whole weights"),
        ({"replicas": 2}, 4, PARAMS, "--data-parallel-size 1"),
        ({"chunked_on_cpu": True}, 4, PARAMS, "--no-enable-chunked-prefill"),
        ({}, 4, SamplingParams(temperature=0.7), "--logprobs-mode processed_logprobs"),
        ({"has_dev_routes": False}, 4, SamplingParams(top_p=0.9), "gives raw_logprobs"),
    ],
)
def test_a_server_that_lacks_something_is_refused_with_the_flag(
    generator_of, stand_in, actor_of, pretended, lora, params, message
):
    actor = actor_of(None if lora is None else Lora(r=lora))
    generator = generator_of(stand_in(**pretended))
    with pytest.raises(ValueError, match=message):
        generator.prepare(SampledPolicy(actor.policy), params, for_training=True)


def test_tied_weights_are_not_sent_to_a_cpu(generator_of, stand_in, actor_of):
    actor = actor_of(None, trunk_layers=0)
    with pytest.raises(ValueError, match="keep its old output embedding"):
        start(generator_of(stand_in(has_adapters=False, on_cpu=True)), actor)


def test_more_is_refused_when_it_is_met(generator_of, stand_in, actor_of):
    actor = actor_of(Lora(r=12))
    blind = stand_in(max_rank=8, has_dev_routes=False)  # tells its rank by an error only
    with pytest.raises(ValueError, match="LoRA rank 12 is greater than max_lora_rank 8"):
        start(generator_of(blind), actor)
    short = generator_of(stand_in(max_model_len=400))
    policy = start(short, actor)
    with pytest.raises(ValueError, match="start it with --max-model-len 406 or more"):
        short.generate(policy, [[5] * 400], SamplingParams(max_new_tokens=6), [0])
    with pytest.raises(ValueError, match="it serves served"):
        start(generator_of(stand_in(), model="other"), actor)
    paused = stand_in(finish_reason="abort")
    with pytest.raises(ValueError, match="end by stop or length, got 'abort'"):
        start(generator_of(paused), actor)
    whole = actor_of(None, trunk_layers=0)
    with pytest.raises(ValueError, match="forget the keys of its former weights"):
        start(generator_of(stand_in(keeps_keys=True, has_adapters=False)), whole)


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_a_server_that_does_not_tell_is_tried(stand_in, mode):
    client = Client(stand_in(mode=mode, has_dev_routes=False).url + "/v1/", 20.0)
    facts = read_facts(client)
    assert facts.logprobs_mode is None
    assert facts.has_adapter_route
    assert measured_mode(client, facts.model) == mode


def test_a_folder_of_adapters_is_sent_and_sampled_from(
    generator_of, stand_in, actor_of, moved, tmp_path
):
    actor = actor_of()
    moved(actor.policy, 0.2)
    folder = str(save_adapter(tmp_path / "adapter", actor.policy))
    policy, base = (
        load_policy(BackboneOptions(n), Template()) for n in (folder, actor.policy.base)
    )
    rows = [Prompt(text, text) for text in PROMPTS]
    params = SamplingParams(max_new_tokens=6, temperature=0.0)
    server = stand_in()
    generator = generator_of(server)
    for model in (base, policy, base):
        found = generate(model, rows, params, generator=generator)
        assert found == generate(model, rows, params)
    asked = [body["model"] == "served" for body in server.asked if body["max_tokens"] == 6]
    assert asked == [True] * 3 + [False] * 3 + [True] * 3
    assert not server.loaded
    assert not list((tmp_path / "weights").iterdir())
    server.is_stale = True
    with pytest.raises(ValueError, match=f"other weights than {folder}"):
        generate(policy, rows, params, generator=generator)
    assert not server.loaded
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None])
def test_a_closed_generator_leaves_nothing_and_can_be_used_again(
    generator_of, stand_in, actor_of, moved, tmp_path, lora
):
    server = stand_in(has_adapters=lora is not None)
    actor = actor_of(lora, trunk_layers=0 if lora is None else 2)
    generator = generator_of(server)
    for _ in range(2):
        moved(actor.policy)
        start(generator, actor)
        rollout = roll(generator, actor)
        own = actor.policy.logprobs(rollout.batch, rollout.below)
        torch.testing.assert_close(own, rollout.sampler_logprobs, rtol=0, atol=1e-4)
        generator.close()
        assert not server.loaded
        assert not list((tmp_path / "weights").iterdir())
    generator.close()  # once more does no harm


def test_closing_passes_over_a_dead_server(generator_of, stand_in, actor_of, moved, tmp_path):
    first, second, actor = stand_in(), stand_in(), actor_of()
    generator = generator_of(first, second)
    moved(actor.policy)
    start(generator, actor)
    first.dies_after = 0
    generator.close()
    assert not second.loaded
    assert not list((tmp_path / "weights").iterdir())


def test_an_interrupt_asks_for_nothing_more():
    asked = []

    def ask(client, job):
        asked.append(job)
        if job == 0:
            _thread.interrupt_main()
        time.sleep(0.05)

    servers = Servers([Client("http://127.0.0.1:1", 1.0)], concurrency=2)
    with pytest.raises(KeyboardInterrupt):
        servers.ask_all(range(100), ask)
    assert len(asked) < 20


def test_doctor_says_what_a_server_lacks(stand_in):
    said = server_facts(stand_in(has_adapter_route=False, chunked_on_cpu=True).url)
    assert "adapters while it runs: no: set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in said
    assert "seeds: no: --no-enable-chunked-prefill" in said
    assert "log-probabilities: raw_logprobs" in said
