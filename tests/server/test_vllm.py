"""Rollouts by a real vLLM server on loopback; see ``make server-test``."""

import itertools
import threading
import time

import pytest
import small_model
import torch

from rlaif_pl.engine import SamplingParams
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl import LocalGenerator, VLLMGenerator
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.rollout import collect
from rlaif_pl.rl.vllm.client import Client, read_samples, request_body
from rlaif_pl.rl.vllm.facts import measured_mode, read_facts
from rlaif_pl.training import A2CModule

pytestmark = [pytest.mark.server, pytest.mark.slow]

TOLERANCE = 1e-3  # nats a token: both compute in float32
PARAMS = SamplingParams(n=4, max_new_tokens=12)


class Vowels:
    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        shares = [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in responses]
        return torch.tensor(shares)


PROMPTS = ["Water the plants.", "A cat", "It rains today, so"]
SEEDS = [100 * prompt + k for prompt, k in itertools.product(range(3), range(4))]


@pytest.fixture
def generator(real_server, tmp_path):
    return VLLMGenerator(real_server.url, str(tmp_path), tolerance=TOLERANCE, timeout_s=300)


def start(generator, actor):
    policy = SampledPolicy(actor.policy)
    generator.prepare(policy, PARAMS, for_training=True)
    generator.update(policy)
    return policy, actor.policy.encode_prompts(PROMPTS)


def own_logprobs(actor, rows, found):
    with torch.no_grad():
        batch = assemble(rows, found.tokens, actor.policy.pad)
        scored = actor.policy.logprobs(batch)
    return [row[: len(own)].tolist() for row, own in zip(scored, found.tokens, strict=True)]


def test_what_the_server_tells_is_true(real_server):
    client = Client(real_server.url, 300)
    facts = read_facts(client)
    assert (facts.max_model_len, facts.max_rank) == (2048, 16)
    assert (facts.dtype, facts.replicas, facts.seed_kills) == ("float32", 1, False)
    assert facts.has_adapter_route
    assert facts.has_dev_routes
    assert measured_mode(client, facts.model) == facts.logprobs_mode == "raw_logprobs"


def test_a_rollout_has_its_logprobs_ends_and_seeds(generator, actor_of, moved):
    actor = actor_of()
    moved(actor.policy)
    policy, rows = start(generator, actor)
    found = generator.generate(policy, rows, PARAMS, SEEDS)
    for own, theirs in zip(own_logprobs(actor, rows, found), found.logprobs, strict=True):
        assert own == pytest.approx(theirs, abs=TOLERANCE)
    assert len({tuple(row) for row in found.tokens[:4]}) == 4  # n samples differ
    assert generator.generate(policy, rows, PARAMS, SEEDS).tokens == found.tokens
    alone = generator.generate(policy, rows[1:2], PARAMS, SEEDS[4:8])
    assert alone.tokens == found.tokens[4:8]  # whatever else is in the batch
    middle = found.tokens[0][3]
    params = SamplingParams(n=4, max_new_tokens=12, stop_token_ids=(middle,))
    ended = generator.generate(policy, rows, params, SEEDS)
    ends = {*policy.end_ids, middle}
    assert ended.finished[0]
    for row, done in zip(ended.tokens, ended.finished, strict=True):
        assert done is (row[-1] in ends)
        assert not ends & set(row[:-1])


def test_stop_strings_and_greedy_are_the_local_samplers(generator, actor_of):
    actor = actor_of()
    policy, rows = start(generator, actor)
    greedy = SamplingParams(n=2, max_new_tokens=8, temperature=0.0)
    found = generator.generate(policy, rows, greedy, SEEDS[:6])
    assert found.tokens == LocalGenerator().generate(policy, rows, greedy, SEEDS[:6]).tokens
    word = actor.policy.decode(found.tokens[0][2:4])
    params = SamplingParams(n=2, max_new_tokens=8, temperature=0.0, stop=(word,))
    ended = generator.generate(policy, rows, params, SEEDS[:6])
    assert ended.tokens == LocalGenerator().generate(policy, rows, params, SEEDS[:6]).tokens


def test_twenty_updates_are_each_what_is_drawn_from(generator, actor_of, moved):
    actor = actor_of()
    policy, rows = start(generator, actor)
    long = [actor.policy.encode_prompts(["The tap drips all night. " * 16])[0]]
    one = SamplingParams(max_new_tokens=4)
    gaps, seconds = [], []
    for _ in range(20):
        moved(actor.policy, 0.02)
        begun = time.monotonic()
        generator.update(policy)  # stops where the fixed text of 300 tokens differs
        seconds.append(time.monotonic() - begun)
        gaps.append(generator.gap)
        found = generator.generate(
            policy, long, one, [3]
        )  # its blocks were cached under old weights
        (own,) = own_logprobs(actor, long, found)
        assert own == pytest.approx(found.logprobs[0], abs=TOLERANCE)
    assert max(gaps) < TOLERANCE
    print(f"\nupdate: {sum(seconds) / 20:.2f} s, largest gap {max(gaps):.1e} nats")  # noqa: T201
    served = Client(generator.servers.all[0].url, 60).get("/v1/models")["data"]
    own = [each["id"] for each in served if generator._run in each["id"]]
    assert len(own) == 1  # the latest alone


def test_whole_weights_are_reloaded(start_real_server, moved, tmp_path):
    folder = str(small_model.write(tmp_path / "untied", tied=False))
    server = start_real_server(folder, adapters=False)
    generator = VLLMGenerator(server.url, str(tmp_path / "w"), tolerance=TOLERANCE, timeout_s=300)
    backbone = BackboneOptions(folder, trunk_layers=0)
    actor = ActorCritic(backbone, lora=None, value_network="none")
    policy, rows = start(generator, actor)
    for _ in range(3):
        moved(actor.policy, 0.01)
        generator.update(policy)
        found = generator.generate(policy, rows, PARAMS, SEEDS)
        for own, theirs in zip(own_logprobs(actor, rows, found), found.logprobs, strict=True):
            assert own == pytest.approx(theirs, abs=TOLERANCE)


def test_whole_tied_weights_are_refused_on_a_cpu(start_server, actor_of, tmp_path):
    server = start_server(adapters=False)
    generator = VLLMGenerator(server.url, str(tmp_path / "w"), tolerance=TOLERANCE, timeout_s=300)
    with pytest.raises(
        ValueError, match="computes on a CPU and would keep its old output embedding"
    ):
        start(generator, actor_of(lora=None, trunk_layers=0))


def test_whole_weights_are_refused_by_a_server_of_adapters(generator, actor_of):
    with pytest.raises(ValueError, match="without --enable-lora to take whole weights"):
        start(generator, actor_of(lora=None, trunk_layers=0))


def test_a_rank_above_the_servers_is_refused(generator, actor_of):
    with pytest.raises(ValueError, match="it takes up to 16; start it with --max-lora-rank 32"):
        start(generator, actor_of(Lora(r=17)))


def five_steps(actor, generator, drawn):
    """Losses of five steps, and what was drawn; without a generator, on what was drawn before."""
    rloo = Advantages(baseline="rloo")
    module = A2CModule(actor, Vowels(), sampling=PARAMS, advantages=rloo, rollout=generator)
    module.log_dict = lambda *_, **__: None
    optimizer = torch.optim.AdamW(module.trained().values(), lr=1e-2)
    policy, rows = SampledPolicy(actor.policy), actor.policy.encode_prompts(PROMPTS)
    losses, kept = [], []
    for step in range(5):
        if generator is not None:
            generator.prepare(policy, PARAMS, for_training=True)
            generator.update(policy)
            samples = generator.generate(policy, rows, PARAMS, [seed + step for seed in SEEDS])
        else:
            samples = drawn[step]._replace(logprobs=None)
        kept.append(samples)
        rollout = collect(actor, Vowels(), PROMPTS, params=PARAMS, seeds=SEEDS, samples=samples)
        loss = module.update_loss(rollout, rollout.is_sampled)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, kept


def test_five_steps_of_a2c_have_the_local_losses(generator, actor_of):
    served, drawn = five_steps(actor_of(), generator, None)
    local, _ = five_steps(actor_of(), None, drawn)  # on the same texts
    assert served == pytest.approx(local, abs=2e-3)
    assert len(set(local)) == 5


def test_a_server_killed_within_a_rollout_is_named(start_server, tmp_path, actor_of):
    server = start_server()
    generator = VLLMGenerator(server.url, str(tmp_path), tolerance=TOLERANCE, timeout_s=300)
    policy, rows = start(generator, actor_of())
    params = SamplingParams(n=4, max_new_tokens=1500)
    threading.Timer(1.0, server.stop).start()
    with pytest.warns(UserWarning, match="left: none"), pytest.raises(ConnectionError) as said:
        generator.generate(policy, rows, params, SEEDS)
    assert server.url in str(said.value)


def test_a_slow_server_is_dropped(real_server, tmp_path, actor_of):
    client = Client(real_server.url, 0.05)
    name = read_facts(Client(real_server.url, 300)).model
    body = request_body(
        name, [5, 6], SamplingParams(max_new_tokens=1500), (), seed=1, with_logprobs=False
    )
    with pytest.raises(ConnectionError, match="gave no answer to /v1/completions within 0.05 s"):
        read_samples(client.post("/v1/completions", body), body, 300, client.url)
