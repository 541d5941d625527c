import pytest
import torch
from architectures import CAPPED
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM
from unpacked import unpack

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions
from rlaif_pl.rl.losses import policy_gradient_loss, value_loss

PROMPTS = ["the dog sat", "a cat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"]]
TEMPERATURE = 0.9
PARAMS = SamplingParams(temperature=TEMPERATURE)
WAYS = [(None, 0), (None, 2), (Lora(r=4), 0), (Lora(r=4), 2)]


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    # every row of the model is a token, so that its own softmax is the policy's
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), 320)])
    return str(save_causal(tmp_path / "sft", make_model("llama"), tokenizer))


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def step(actor, lr=0.02):
    """Move policy and critic by two steps: LoRA's A moves once B is off 0."""
    optimizer = torch.optim.SGD(trained(actor).values(), lr=lr)
    torch.nn.init.normal_(actor.value_head.weight)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    below = actor.policy.trunk_states(batch.inputs)
    for _ in range(2):
        optimizer.zero_grad()
        _, features = actor.reference_pass(batch, below, PARAMS)
        found = actor.evaluate(batch, below, features, PARAMS)
        (found.tokens.logprobs.sum() + found.values.square().sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("dtype", "lora", "trunk_layers"),
    [("float32", *way) for way in WAYS]
    # Layers that are trained whole are float32, so only adapters agree with a bfloat16 reference.
    + [("bfloat16", *way) for way in WAYS if way[0] is not None],
)
def test_before_training_policy_and_reference_agree_to_the_bit(
    folder, lora, trunk_layers, packs, dtype
):
    options = BackboneOptions(folder, trunk_layers=trunk_layers, dtype=dtype)
    actor = unpack(ActorCritic(options, lora=lora), packs)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    below = actor.policy.trunk_states(batch.inputs)
    reference, _ = actor.reference_pass(batch, below, PARAMS)
    logprobs = actor.policy.logprobs(batch, below, PARAMS)
    assert logprobs.requires_grad
    assert torch.equal(logprobs, reference)


@pytest.mark.parametrize("value_network", ["separate", "reference_features"])
def test_values_start_at_0_and_there_is_one_before_each_token(folder, value_network):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=2), value_network=value_network)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    _, features = actor.reference_pass(batch, None, SamplingParams())
    values = actor.values(batch, None, features)
    assert values.shape == (4, batch.lengths.max())
    assert (values == 0).all()


def texts_of(batch):
    """Each text of a batch without padding: ids, and where its response starts."""
    for n, own in enumerate(batch.continuations):
        prefix = batch.prefixes[n // batch.per_prefix]
        yield torch.tensor([[*prefix, *own]]), len(prefix) + 1


def unit(states):
    """Mean 0 and squared length 1, as the value head reads them."""
    centered = states - states.mean(-1, keepdim=True)
    return centered / (centered.square().sum(-1, keepdim=True) + 32 * 1e-5).sqrt()


def plain_losses(policy, critic, head, batch, advantages, returns):
    """Both losses from whole transformers models, one text at a time."""
    policy_total = value_total = torch.zeros(())
    for n, (ids, start) in enumerate(texts_of(batch)):
        table = (policy(input_ids=ids).logits[0, start - 1 : -1] / TEMPERATURE).log_softmax(-1)
        logprobs = table.gather(1, ids[0, start:, None])[:, 0]
        states = unit(decoder_of(critic)(input_ids=ids).last_hidden_state[0, start - 1 : -1])
        length = len(logprobs)
        policy_total = policy_total - (logprobs * advantages[n, :length]).sum()
        value_total = value_total + (head(states).flatten() - returns[n, :length]).square().sum()
    count = batch.is_response.sum()
    return policy_total / count, value_total / count


def plain_name(name, trunk_layers):
    """Name of a top's weight in the uncut causal LM."""
    name = name.replace("unembedding.", "lm_head.").replace("top.decoder.", "model.")
    parts = name.replace("decoder.", "model.").split(".")
    if parts[1] == "layers":
        parts[2] = str(int(parts[2]) + trunk_layers)
    return ".".join(parts)


def assert_gradients(module, plain, trunk_layers):
    # GPT-2 calls its decoder by a name of its own.
    names = {name.replace("transformer.", "model."): p for name, p in plain.named_parameters()}
    expected = {name: p.grad for name, p in names.items()}
    found = trained(module)
    assert found
    for name, parameter in found.items():
        gradient = expected[plain_name(name, trunk_layers)]
        atol = 1e-4 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=atol, msg=name)
    return {plain_name(name, trunk_layers) for name in found}


@pytest.mark.parametrize(
    ("name", "trunk_layers"),
    [("gpt2", 0), *((n, k) for n in ("qwen2", "qwen3", "gemma2", "gemma3") for k in (0, 2))],
)
def test_other_architectures_give_the_gradients_of_whole_models(
    make_model, tokenizer, tmp_path, name, trunk_layers
):
    # every row of the model is a token, so that its own softmax is the policy's
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), 320)])
    source = str(save_causal(tmp_path / "sft", make_model(name), tokenizer))
    actor = ActorCritic(BackboneOptions(source, trunk_layers=trunk_layers))
    assert actor.policy.top.capabilities.prunes
    torch.nn.init.normal_(actor.value_head.weight)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    advantages, returns = torch.randn(2, *batch.is_response.shape)
    found = actor.evaluate(batch, None, None, PARAMS)
    policy_part = policy_gradient_loss(found.tokens.logprobs, advantages, batch.is_response)
    value_part = value_loss(found.values, returns, batch.is_response)
    (policy_part + value_part).backward()
    way = CAPPED if name == "gemma2" else {}
    plain = [
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **way) for _ in range(2)
    ]
    expected = plain_losses(*plain, actor.value_head, batch, advantages, returns)
    torch.testing.assert_close(policy_part, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value_part, expected[1], rtol=1e-4, atol=1e-5)
    sum(expected).backward()
    assert_gradients(actor.policy, plain[0], trunk_layers)
    assert_gradients(actor.critic, plain[1], trunk_layers)


def tokens_read(top):
    """Note how many tokens each part of a stack's layers and its norm is given in a run."""
    counts = {}

    def note(name):
        return lambda _, given, __: counts.update({name: given[0].shape[-2]})

    for n, layer in enumerate(top.decoder.layers):
        parts = {**dict(layer.self_attn.named_children()), "up_proj": layer.mlp.up_proj}
        for name, part in parts.items():
            part.register_forward_hook(note((n, name)))
    top.decoder.norm.register_forward_hook(note("norm"))
    return counts


def test_no_role_runs_a_token_in_vain(folder):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=2), lora=Lora(r=4))
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    counts = [tokens_read(top) for top in (actor.reference.top, actor.policy.top, actor.critic)]
    actor.reference_pass(batch, None, PARAMS)
    actor.evaluate(batch, None, None, PARAMS)
    # A response is predicted from the last prompt token and all of its own but the last.
    responses = int(batch.lengths.sum())
    every = sum(batch.prefix_lengths) + responses
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
    expected = {(n, part): every for n in (0, 1) for part in parts}
    expected |= {(1, part): responses for part in ("q_proj", "o_proj", "up_proj")}
    for found in counts:
        assert found == {**expected, "norm": responses}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("trunk_layers", [0, 2])
@pytest.mark.parametrize("value_network", ["separate", "shared_trunk", "reference_features"])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_separate_whole_models(
    folder, tiny_model_folder, tied, value_network, trunk_layers, gradient_checkpointing
):
    name = str(tiny_model_folder) if tied else folder
    options = BackboneOptions(
        name, trunk_layers=trunk_layers, gradient_checkpointing=gradient_checkpointing
    )
    actor = ActorCritic(options, value_network=value_network)
    torch.nn.init.normal_(actor.value_head.weight)
    actor.train(gradient_checkpointing)  # layers recompute in train mode only
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    advantages, returns = torch.randn(2, *batch.is_response.shape)
    below = actor.policy.trunk_states(batch.inputs)
    _, features = actor.reference_pass(batch, below, PARAMS)
    found = actor.evaluate(batch, below, features, PARAMS)
    values = found.values
    policy_part = policy_gradient_loss(found.tokens.logprobs, advantages, batch.is_response)
    value_part = value_loss(values, returns, batch.is_response)
    (policy_part + value_part).backward()

    policy, critic = (
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32) for _ in range(2)
    )
    if value_network == "shared_trunk":
        critic = policy
    head = torch.nn.Linear(32, 1)
    head.load_state_dict(actor.value_head.state_dict())
    expected = plain_losses(policy, critic, head, batch, advantages, returns)
    torch.testing.assert_close(policy_part, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value_part, expected[1], rtol=1e-4, atol=1e-5)
    sum(expected).backward()
    compared = assert_gradients(actor.policy, policy, trunk_layers)
    if trunk_layers == 0:
        assert compared == {name for name, _ in policy.named_parameters()}
    if value_network == "separate":
        assert_gradients(actor.critic, critic, trunk_layers)
    torch.testing.assert_close(actor.value_head.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-4)


def adapted(stack):
    """Each adapted layer of a stack by its name in the uncut causal LM."""
    return {n: m for n, m in stack.named_modules() if isinstance(m, LoraLayer)}


def add_adapters(plain, stack, trunk_layers):
    """Add each adapter's product to the weight of a whole model; returns those weights."""
    weights = {}
    for name, layer in adapted(stack).items():
        weight = plain.get_parameter(plain_name(f"{name}.weight", trunk_layers))
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        weight.data += layer.scaling["default"] * product.detach()
        weights[name] = weight
    return weights


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_adapters_gradients_follow_from_those_of_separate_merged_models(
    folder, trunk_layers, gradient_checkpointing
):
    options = BackboneOptions(
        folder, trunk_layers=trunk_layers, gradient_checkpointing=gradient_checkpointing
    )
    actor = ActorCritic(options, lora=Lora(r=2, alpha=4), value_network="adapter")
    torch.nn.init.normal_(actor.value_head.weight)
    for name, parameter in trained(actor).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    actor.train(gradient_checkpointing)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    advantages, returns = torch.randn(2, *batch.is_response.shape)
    found = actor.evaluate(batch, None, None, PARAMS)
    policy_part = policy_gradient_loss(found.tokens.logprobs, advantages, batch.is_response)
    value_part = value_loss(found.values, returns, batch.is_response)
    (policy_part + value_part).backward()

    plain = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2)]
    stacks = (actor.policy.top, actor.critic)
    pairs = [
        (stack, add_adapters(m, stack, trunk_layers))
        for m, stack in zip(plain, stacks, strict=True)
    ]
    expected = plain_losses(*plain, actor.value_head, batch, advantages, returns)
    torch.testing.assert_close(policy_part, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value_part, expected[1], rtol=1e-4, atol=1e-5)
    sum(expected).backward()
    for stack, weights in pairs:
        for name, layer in adapted(stack).items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            gradient = layer.scaling["default"] * weights[name].grad
            for ours, wanted in ((a, b.T @ gradient), (b, gradient @ a.T)):
                atol = 2e-4 * wanted.abs().max().item() + 1e-7
                torch.testing.assert_close(ours.grad, wanted, rtol=0, atol=atol, msg=name)


def test_a_value_network_is_chosen_by_name_or_as_the_policy_is_trained(folder):
    options, lora = BackboneOptions(folder, trunk_layers=2), Lora(r=2)
    assert ActorCritic(options).value_network == "separate"
    assert ActorCritic(options, lora=lora).value_network == "adapter"
    separate = ActorCritic(options, lora=lora, value_network="separate")
    assert adapted(separate.policy.top)
    assert not adapted(separate.critic)
    assert all(p.requires_grad for p in separate.critic.parameters())
    assert not set(separate.critic.parameters()) & set(separate.reference.parameters())
    for name in ("shared_trunk", "reference_features", "none"):
        assert ActorCritic(options, value_network=name).critic is None
    with pytest.raises(ValueError, match="expected lora with value_network=adapter"):
        ActorCritic(options, value_network="adapter")
    with pytest.raises(ValueError, match="expected value_network to be 'separate' or .* got 'sep'"):
        ActorCritic(options, value_network="sep")


def test_without_a_value_network_there_is_nothing_of_it(folder):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=2), value_network="none")
    assert all(name.startswith("policy.") for name in trained(actor))
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    assert actor.evaluate(batch, None, None, SamplingParams()).values is None
    with pytest.raises(ValueError, match="got value_network=none"):
        actor.values(batch, None, None)


def test_a_head_needs_states_to_read(folder):
    actor = ActorCritic(BackboneOptions(folder), value_network="reference_features")
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    with pytest.raises(ValueError, match="value_network=reference_features, got None"):
        actor.values(batch, None, None)


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_an_update_moves_policy_and_critic_and_leaves_the_reference(folder, lora, trunk_layers):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=trunk_layers), lora=lora)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    weights = {name: p.clone() for name, p in actor.reference.named_parameters()}
    before, features = actor.reference_pass(batch, None, PARAMS)
    step(actor)
    after, again = actor.reference_pass(batch, None, PARAMS)
    assert torch.equal(after, before)
    assert torch.equal(again, features)
    assert all(torch.equal(p, weights[name]) for name, p in actor.reference.named_parameters())
    with torch.no_grad():
        assert not torch.allclose(actor.policy.logprobs(batch, None, PARAMS), before)
        assert actor.values(batch, None, features).abs().max() > 0


@pytest.mark.parametrize("value_network", ["separate", "shared_trunk", "reference_features"])
@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_whatever_is_trained_gets_a_gradient(folder, lora, trunk_layers, value_network):
    options = BackboneOptions(folder, trunk_layers=trunk_layers)
    actor = ActorCritic(options, lora=lora, value_network=value_network)
    step(actor, lr=0.0)
    assert [name for name, p in trained(actor).items() if p.grad is None] == []


def test_with_adapters_the_weights_are_held_once(folder):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=2), lora=Lora(r=4))
    own = set(trained(actor).values())
    assert set(actor.parameters()) - own == set(actor.reference.parameters())


def test_policy_and_critic_start_from_adapters_of_their_own(folder):
    actor = ActorCritic(BackboneOptions(folder), lora=Lora(r=4), seed=3)
    again = ActorCritic(BackboneOptions(folder), lora=Lora(r=4), seed=3)
    first, second, third = (
        {n.removeprefix("top."): p for n, p in trained(part).items() if "lora_A" in n}
        for part in (actor.policy, actor.critic, again.policy)
    )
    assert first.keys() == second.keys() == third.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_a_saved_policy_is_the_trained_one_in_transformers(folder, lora, trunk_layers, tmp_path):
    actor = ActorCritic(BackboneOptions(folder, trunk_layers=trunk_layers), lora=lora)
    step(actor)
    model = AutoModelForCausalLM.from_pretrained(actor.save_pretrained(tmp_path / "policy"))
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    with torch.no_grad():
        hidden = batch.spread(actor.policy.hidden(batch))
        for n, (ids, start) in enumerate(texts_of(batch)):
            expected = model(input_ids=ids).logits[0, start - 1 : -1]
            found = actor.policy.logits(hidden[n, : len(expected)])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
