import pytest
import torch
from unpacked import unpack

from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.sampling import SamplingParams, sample_seed
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.rl.kl import log_ratio
from rlaif_pl.rl.objective import Objective, Update
from rlaif_pl.rl.rollout import collect, reads_samples

PROMPTS = ["the dog sat on a mat", "a cat"]
SEEDS = [sample_seed(1, prompt, k) for prompt in PROMPTS for k in range(3)]
TEMPERATURE = 0.9
PARAMS = SamplingParams(temperature=TEMPERATURE)


class CountLetters:
    """Rewards the letter e, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, prompts, responses):
        self.asked += zip(prompts, responses, strict=True)
        return torch.tensor([float(text.count("e")) for text in responses])


@pytest.fixture
def actor_of(model_folder):
    """Return a builder of actors that end some texts early: a likely token is their EOS."""

    def build(trunk_layers=2, value_network="adapter", packs=True):
        backbone = BackboneOptions(model_folder("llama"), trunk_layers=trunk_layers)
        return unpack(ActorCritic(backbone, lora=Lora(r=4), value_network=value_network), packs)

    return build


def roll(actor, reward, max_new_tokens=8, temperature=TEMPERATURE, most_tokens=None):
    return collect(
        actor,
        reward,
        PROMPTS,
        params=SamplingParams(n=3, max_new_tokens=max_new_tokens, temperature=temperature),
        seeds=SEEDS,
        most_tokens=most_tokens,
    )


def make_some_end(actor):
    """Let a sampled token be the end, so that some texts finish and others are cut."""
    rollout = roll(actor, CountLetters())
    for part in (actor.policy, actor.reference):
        part.eos = int(rollout.batch.response_ids[0, 3])
        part.stop_token_ids = frozenset({part.eos})


@pytest.mark.parametrize("trunk_layers", [0, 2])
@pytest.mark.parametrize("packs", [True, False])
def test_states_and_logprobs_are_those_of_the_sampled_texts(actor_of, trunk_layers, packs):
    actor = actor_of(trunk_layers, packs=packs)
    make_some_end(actor)
    rollout = roll(actor, CountLetters())
    assert set(rollout.finished.tolist()) == {True, False}
    fresh = actor.policy.trunk_states(rollout.batch.inputs)
    if trunk_layers:
        torch.testing.assert_close(rollout.below, fresh, rtol=1e-4, atol=1e-4)
    expected, _ = actor.reference_pass(rollout.batch, fresh, PARAMS)
    torch.testing.assert_close(rollout.ref_logprobs, expected, rtol=0, atol=1e-4)
    logprobs = actor.policy.logprobs(rollout.batch, rollout.below, PARAMS)
    assert torch.equal(logprobs, rollout.ref_logprobs)  # KL is exactly 0 before the first update


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_a_batch_holds_the_drawn_tokens_and_no_other(actor_of, trunk_layers):
    actor = actor_of(trunk_layers)
    make_some_end(actor)
    rollout = roll(actor, CountLetters())
    for n, length in enumerate(rollout.batch.lengths.tolist()):
        row = rollout.batch.response_ids[n, :length].tolist()
        assert (row[-1] == actor.policy.eos) is bool(rollout.finished[n])
        assert actor.policy.eos not in row[:-1]
        assert rollout.finished[n] or length == 8
        assert rollout.is_sampled[n].tolist() == [place < length for place in range(8)]
    assert torch.equal(rollout.batch.lengths, rollout.is_sampled.sum(1))


def test_a_text_reward_is_asked_about_every_pair_in_order(actor_of):
    reward = CountLetters()
    rollout = roll(actor_of(), reward)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    assert reward.asked == list(zip(prompts, rollout.texts, strict=True))
    assert rollout.scores.tolist() == [text.count("e") for text in rollout.texts]


@pytest.mark.parametrize("shared", [True, False])
def test_a_reward_model_scores_the_sampled_texts(actor_of, model_folder, shared):
    actor = actor_of()
    reward = RewardModel(BackboneOptions(model_folder("llama"), trunk_layers=2))
    assert reward.adopt_trunk(actor.policy.trunk if shared else None) is shared
    rollout = roll(actor, reward)
    assert not rollout.finished.any()
    expected = reward.rewards(
        closed_batch(reward, rollout) if shared else text_batch(reward, rollout)
    )
    torch.testing.assert_close(rollout.scores, expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["stop", "stop_token_ids"])
def test_a_reward_model_on_the_policys_trunk_scores_texts_that_were_stopped(
    actor_of, model_folder, kind
):
    actor = actor_of()
    reward = RewardModel(BackboneOptions(model_folder("llama"), trunk_layers=2))
    assert reward.adopt_trunk(actor.policy.trunk)
    whole = roll(actor, CountLetters())
    token = int(whole.batch.response_ids[0, 3])
    ends = {"stop": whole.texts[0][2:4], "stop_token_ids": (token,)}
    params = SamplingParams(n=3, max_new_tokens=8, temperature=TEMPERATURE, **{kind: ends[kind]})
    rollout = collect(actor, reward, PROMPTS, params=params, seeds=SEEDS)
    assert set(rollout.finished.tolist()) == {True, False}
    if kind == "stop":
        assert rollout.texts == [text.partition(params.stop[0])[0].strip() for text in whole.texts]
    asked = [prompt for prompt in PROMPTS for _ in range(3)]
    expected = reward.score(asked, rollout.texts)
    torch.testing.assert_close(rollout.scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("limit", [4, 8])
def test_a_reward_model_on_the_policys_trunk_cuts_as_it_does_elsewhere(
    actor_of, model_folder, limit
):
    actor = actor_of()
    backbone = BackboneOptions(model_folder("llama"), trunk_layers=2)
    reward = RewardModel(backbone, max_response_tokens=limit)
    assert reward.adopt_trunk(actor.policy.trunk)
    rollout = roll(actor, reward)
    asked = [prompt for prompt in PROMPTS for _ in range(3)]
    expected = reward.score(asked, rollout.texts)
    torch.testing.assert_close(rollout.scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("limit", "reads"), [(8, False), (9, True)])
def test_a_reward_model_reads_drawn_tokens_where_it_cuts_none(actor_of, model_folder, limit, reads):
    policy = actor_of().policy
    backbone = BackboneOptions(model_folder("llama"), trunk_layers=2)
    reward = RewardModel(backbone, max_response_tokens=limit)
    assert reward.adopt_trunk(policy.trunk)
    assert reads_samples(reward, policy, SamplingParams(max_new_tokens=8)) is reads


def closed_batch(reward, rollout):
    """What a model on the policy's own trunk reads: the sampled tokens, here cut, and EOS."""
    prompts = reward.model.encode_prompts(PROMPTS)
    drawn = [[*row, reward.model.eos] for row in rollout.batch.response_ids.tolist()]
    return assemble(prompts, drawn, reward.model.pad)


def text_batch(reward, rollout):
    """What any other model reads: the texts, tokenized anew."""
    return reward.encode(PROMPTS, [rollout.texts[:3], rollout.texts[3:]])


class Calls:
    """Notes the shape of what a stack's first layer is given, in whatever way it is run.

    Args:
        stack: Whose calls to note.
    """

    def __init__(self, stack):
        self.shapes = []
        layer = stack.decoder.layers[0]
        layer.register_forward_pre_hook(lambda _, given: self.shapes.append(given[0].shape[:2]))


@pytest.mark.parametrize("packs", [True, False])
def test_samples_share_the_prefill_and_finished_rows_leave(actor_of, packs):
    actor = actor_of(packs=packs)
    make_some_end(actor)
    prompts = actor.policy.encode_prompts(PROMPTS)
    lengths = [len(prompt) - 1 for prompt in prompts]
    for part in (actor.policy.trunk, actor.policy.top):
        calls = Calls(part)
        roll(actor, CountLetters())
        rows = [rows for rows, width in calls.shapes if width == 1]
        # Prompts are read once, and not once a sample, without padding.
        if not packs:  # three samples of one length at a time, none of them padded
            widths = [shape for shape in calls.shapes if shape[1] > 1]
            assert widths[: len(lengths)] == [(3, length) for length in lengths]
            continue
        assert calls.shapes[0] == (1, sum(lengths))
        assert rows[0] == len(SEEDS)
        assert rows == sorted(rows, reverse=True)
        assert rows[-1] < rows[0]


def test_all_roles_read_the_trunk_states_made_while_sampling(actor_of, model_folder):
    actor = actor_of()
    reward = RewardModel(BackboneOptions(model_folder("llama"), trunk_layers=2), lora=Lora(r=2))
    assert reward.adopt_trunk(actor.policy.trunk)
    assert actor.policy.trunk.capabilities.decodes  # tests itself
    calls = Calls(actor.policy.trunk)
    rollout = roll(actor, reward)
    assert [width for _, width in calls.shapes[1:]] == [1] * len(calls.shapes[1:])
    count = len(calls.shapes)
    actor.evaluate(rollout.batch, rollout.below, rollout.features, PARAMS)
    assert len(calls.shapes) == count


def test_a_rollout_holds_no_graph(actor_of):
    rollout = roll(actor_of(value_network="reference_features"), CountLetters())
    tensors = (rollout.ref_logprobs, rollout.features, rollout.scores, rollout.below)
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("value_network", ["adapter", "shared_trunk", "none"])
def test_the_references_states_are_kept_only_for_who_reads_them(actor_of, value_network):
    assert roll(actor_of(value_network=value_network), CountLetters()).features is None


FILTERS = [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 9, "top_p": 0.8, "min_p": 0.05}]


@pytest.mark.parametrize("filters", FILTERS)
def test_tokens_are_scored_over_what_filters_keep(actor_of, filters):
    actor = actor_of()
    params = SamplingParams(n=3, max_new_tokens=8, temperature=0.7, **filters)
    rollout = collect(actor, CountLetters(), PROMPTS, params=params, seeds=SEEDS)
    found = actor.evaluate(rollout.batch, rollout.below, rollout.features, params)
    assert torch.equal(found.tokens.logprobs, rollout.ref_logprobs)  # KL 0, to the last bit
    rows, expected = plain_filtered(actor.policy, actor.policy, rollout.batch, params)
    torch.testing.assert_close(found.tokens.logprobs[rollout.is_sampled], rows, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        found.tokens.entropy[rollout.is_sampled], expected, rtol=0, atol=1e-4
    )
    whole = actor.policy.logprobs(rollout.batch, rollout.below, PARAMS)
    assert (rows > whole[rollout.is_sampled] - 1).any()
    found.tokens.logprobs.sum().backward()
    assert all(
        torch.isfinite(p.grad).all() for p in actor.policy.parameters() if p.grad is not None
    )


def test_the_reference_is_scored_over_what_the_policy_keeps(actor_of):
    actor = actor_of()
    with torch.no_grad():
        for value in actor.policy.top.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))
    params = SamplingParams(n=3, max_new_tokens=8, top_k=4)
    rollout = collect(actor, CountLetters(), PROMPTS, params=params, seeds=SEEDS)
    expected, _ = plain_filtered(actor.reference, actor.policy, rollout.batch, params)
    found = rollout.ref_logprobs[rollout.is_sampled]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert found.isfinite().all()
    ratio = log_ratio(actor.policy, actor.reference, rollout.batch, params)
    own = actor.policy.logprobs(rollout.batch, None, params)
    torch.testing.assert_close(ratio, own - rollout.ref_logprobs, rtol=0, atol=1e-4)
    assert ratio.abs().max() > 1e-3


@torch.no_grad()
def plain_filtered(model, drawer, batch, params):
    """Score token by token from whole logits: over the tokens that the drawing policy keeps."""
    logprobs, entropies = [], []
    is_real = batch.is_response
    own = drawer.unembedding(drawer.hidden(batch)).float()
    logits = model.unembedding(model.hidden(batch)).float()
    for row, mine, token in zip(own, logits, batch.response_ids[is_real].tolist(), strict=True):
        chances = (row / params.temperature).softmax(-1)
        order = row.argsort(descending=True).tolist()
        if params.top_k:
            order = order[: params.top_k]
        order = [n for n in order if chances[n] >= params.min_p * chances[order[0]]]
        total = chances[order].sum()
        kept, seen = [], 0.0
        for n in order:
            if seen < params.top_p:
                kept.append(n)
            seen += float(chances[n] / total)
        assert token in kept
        table = (mine[kept] / params.temperature).log_softmax(-1)
        logprobs.append(table[kept.index(token)])
        entropies.append(-(table.exp() * table).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_the_reference_runs_in_the_parts_that_the_policy_is_trained_in(actor_of, trunk_layers):
    """Rows of a product decide how a GPU rounds: other parts would give a KL beside 0."""
    actor = actor_of(trunk_layers, "reference_features")
    whole = roll(actor, CountLetters())
    seen = {"policy": [], "reference": []}
    for name, ran in seen.items():
        run = getattr(actor, name).hidden

        def noted(batch, *rest, run=run, ran=ran):
            ran.append((batch.prefixes, batch.continuations))
            return run(batch, *rest)

        getattr(actor, name).hidden = noted
    parts = roll(actor, CountLetters(), most_tokens=1)
    update = Update(
        actor, Objective(num_generations=3), parts, parts.is_sampled, PARAMS, most_tokens=1
    )
    for loss in update.losses():
        loss()
    assert len(seen["reference"]) == len(PROMPTS)
    assert seen["policy"][-len(PROMPTS) :] == seen["reference"]
    assert not update.kl.any()
    torch.testing.assert_close(parts.ref_logprobs, whole.ref_logprobs)
    torch.testing.assert_close(parts.features, whole.features)
