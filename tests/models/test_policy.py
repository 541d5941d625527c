import pytest
import torch
from transformers import AutoModelForCausalLM
from unpacked import unpack

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy, same_trunk
from rlaif_pl.models.reward_folder import is_reward_folder
from rlaif_pl.text import Template

PROMPTS = ["the dog sat", "a cat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"]]
CUTS = [("llama", 0), ("llama", 2), ("qwen2", 0), ("qwen2", 3), ("gemma2", 2), ("gpt2", 0)]


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    """Return a writer of model folders by architecture name."""
    return lambda name: str(save_causal(tmp_path / name, make_model(name), tokenizer))


def plain_logprobs(model, tokenizer, prompt, response, temperature):
    """One text, not padded, through the transformers model; log-softmax over all logits."""
    before = tokenizer(Template().render(prompt)).input_ids
    after = [*tokenizer(f" {response}").input_ids, tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([before + after])).logits[0].float() / temperature
    logits = logits[:, : len(tokenizer)]  # other ids are never drawn
    table = logits[len(before) - 1 : -1].log_softmax(-1)
    return table.gather(1, torch.tensor(after)[:, None])[:, 0]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("name", "trunk_layers"), CUTS)
def test_logprobs_are_the_librarys_own(folder, tokenizer, name, trunk_layers, temperature, packs):
    options = BackboneOptions(folder(name), trunk_layers=trunk_layers)
    policy = unpack(load_policy(options, Template()), packs)
    with torch.no_grad():
        found = policy.logprobs(
            policy.encode(PROMPTS, RESPONSES), params=SamplingParams(temperature=temperature)
        )
        model = AutoModelForCausalLM.from_pretrained(options.name, dtype=torch.float32)
        flat = [response for group in RESPONSES for response in group]
        for n, response in enumerate(flat):
            expected = plain_logprobs(
                model, policy.tokenizer, PROMPTS[n // 2], response, temperature
            )
            torch.testing.assert_close(found[n, : len(expected)], expected, rtol=0, atol=1e-4)
            assert (found[n, len(expected) :] == 0).all()


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_fused_logprobs_train_as_whole_logits_do(folder, name, lora):
    policy = for_role(load_policy(BackboneOptions(folder(name)), Template()), lora, 0)
    batch = policy.encode(PROMPTS, RESPONSES)

    def fused():
        return policy.logprobs(batch, params=SamplingParams(temperature=0.9))

    def whole():
        table = (policy.logits(batch.spread(policy.hidden(batch))) / 0.9).log_softmax(-1)
        taken = table.gather(2, batch.response_ids[..., None])[..., 0]
        return torch.where(batch.is_response, taken, 0.0)

    def value_and_gradients(function):
        policy.zero_grad()
        logprobs = function()
        (logprobs * torch.arange(1, 1 + logprobs.shape[1])).sum().backward()
        trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
        return logprobs.detach(), {n: p.grad.clone() for n, p in trained.items()}

    expected, wanted = value_and_gradients(whole)
    logprobs, found = value_and_gradients(fused)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)
    for key, gradient in wanted.items():
        atol = 1e-5 * gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=atol, msg=key)


def test_a_loaded_policy_is_frozen_and_a_role_trains_its_top(folder):
    base = load_policy(BackboneOptions(folder("llama"), trunk_layers=2), Template())
    role = for_role(base, None, 0)
    assert not any(p.requires_grad for p in base.parameters())
    trained = {name for name, p in role.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in role.named_parameters() if name.startswith("top.")}
    assert role.trunk is base.trunk
    assert role.unembedding is base.unembedding


def test_with_adapters_a_role_shares_every_weight_of_the_base(folder):
    base = load_policy(BackboneOptions(folder("llama")), Template())
    role = for_role(base, Lora(r=2), 0)
    frozen = {p for p in role.parameters() if not p.requires_grad}
    assert frozen == set(base.parameters())
    assert all("lora_" in name for name, p in role.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "tied"), [("gpt2", True), ("gemma2", True), ("llama", False)])
def test_a_whole_copy_ties_its_embeddings_where_the_model_does(folder, name, tied):
    base = load_policy(BackboneOptions(folder(name)), Template())
    role = for_role(base, None, 0)
    embedding = role.top.decoder.get_input_embeddings().weight
    assert role.is_tied is tied
    assert (role.unembedding.weight is embedding) is tied
    assert role.unembedding.weight.requires_grad
    assert role.unembedding.weight.data_ptr() != base.unembedding.weight.data_ptr()


def test_a_role_that_writes_no_tokens_leaves_the_output_embedding_frozen(folder):
    base = load_policy(BackboneOptions(folder("llama")), Template())
    role = for_role(base, None, 0, writes=False)
    assert role.unembedding is base.unembedding
    assert not role.unembedding.weight.requires_grad
    assert all(p.requires_grad for p in role.top.parameters())


@pytest.mark.parametrize("trunk_layers", [0, 2])
@pytest.mark.parametrize("lora", [None, Lora(r=2)])
def test_trained_weights_are_float32_over_a_bfloat16_base(folder, lora, trunk_layers):
    options = BackboneOptions(folder("llama"), trunk_layers=trunk_layers, dtype="bfloat16")
    base = load_policy(options, Template())
    role = for_role(base, lora, 0)
    assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in role.parameters() if p.requires_grad} == {torch.float32}
    role.logprobs(role.encode(PROMPTS, RESPONSES)).sum().backward()
    trained = [p.grad for p in role.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained)


def test_recomputation_does_not_forbid_shared_prefixes(folder):
    options = BackboneOptions(folder("llama"), gradient_checkpointing=True)
    role = for_role(load_policy(options, Template()), Lora(r=2), 0).train()
    assert role.top.recomputes
    rows = []
    role.top.decoder.layers[0].register_forward_pre_hook(
        lambda _, given: rows.append(given[0].shape[1])
    )
    batch = role.encode(PROMPTS, RESPONSES)
    assert role.top.capabilities.packs
    rows.clear()
    role.hidden(batch)
    assert rows == [len(batch.inputs.packed_ids)]


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    options = BackboneOptions(str(tmp_path / "sft"), create_with="python -m rlaif_pl run x.yaml")
    with pytest.raises(FileNotFoundError, match=r"sft, there is none; make it with: python -m"):
        load_policy(options, Template())


def test_only_a_name_with_a_maker_must_be_a_folder(tmp_path):
    BackboneOptions("some-hub/name").check_exists()
    BackboneOptions("HuggingFaceTB/SmolLM2-135M").check_exists()  # of the hub, though near ours
    (tmp_path / "config.json").write_text("{}")
    BackboneOptions(str(tmp_path), create_with="make").check_exists()
    with pytest.raises(FileNotFoundError, match="there is none; make it with: make"):
        BackboneOptions(str(tmp_path / "absent"), create_with="make").check_exists()


@pytest.mark.parametrize("trunk_layers", [-1, 4])
def test_a_trunk_leaves_the_top_a_layer(folder, trunk_layers):
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        load_policy(BackboneOptions(folder("llama"), trunk_layers=trunk_layers), Template())


def test_a_policy_is_no_reward_folder(folder, tmp_path):
    assert not is_reward_folder(folder("llama"))
    assert not is_reward_folder(str(tmp_path / "absent"))
    assert not is_reward_folder("some-hub/name")


def test_trunks_are_the_same_by_weight_and_type(folder):
    name = folder("llama")

    def trunk(layers=2, dtype="float32"):
        return load_policy(
            BackboneOptions(name, trunk_layers=layers, dtype=dtype), Template()
        ).trunk

    first, rounded = trunk(), trunk(dtype="bfloat16")
    assert same_trunk(first, trunk())
    assert not same_trunk(first, trunk(layers=3))
    assert not same_trunk(first, None)
    assert not same_trunk(None, None)
    assert not same_trunk(first, rounded)
    assert not same_trunk(rounded.float(), trunk())
    assert same_trunk(trunk(dtype="bfloat16"), trunk(dtype="bfloat16"))
    first.decoder.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    assert not same_trunk(first, trunk())


def test_trunks_on_two_devices_are_compared(folder, monkeypatch):
    options = BackboneOptions(folder("llama"), trunk_layers=2)
    first, second = (load_policy(options, Template()).trunk for _ in range(2))
    far = {name: Elsewhere(value) for name, value in second.state_dict().items()}
    monkeypatch.setattr(second, "state_dict", lambda: far)
    assert same_trunk(first, second)
    next(iter(far.values())).value.add_(1)
    assert not same_trunk(first, second)


class Elsewhere:
    """A tensor on a device that has no place here: it is read only once it is moved."""

    def __init__(self, value):
        self.value, self.dtype = value, value.dtype

    def to(self, device):
        assert device == torch.device("cpu")
        return self.value


def test_equal_values_of_another_type_are_another_trunk(folder):
    options = BackboneOptions(folder("llama"), trunk_layers=2, dtype="bfloat16")
    rounded = load_policy(options, Template()).trunk
    widened = load_policy(options, Template()).trunk.float()
    assert not same_trunk(rounded, widened)
