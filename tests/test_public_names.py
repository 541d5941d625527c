"""The names of the package: they load on first use, and their signatures are promises."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rlaif_pl

LOADS_NOTHING = """
import sys
import rlaif_pl
assert "generate" in dir(rlaif_pl)
heavy = {"torch", "lightning", "transformers", "datasets", "numpy"} & set(sys.modules)
assert not heavy, heavy
from rlaif_pl import SamplingParams, ops
assert "torch" in sys.modules
assert SamplingParams(n=2).n == 2
assert callable(ops.gae)
"""
# First arguments by position, then every keyword that is promised.
SIGNATURES = {
    "generate": "policy prompts sampling seed batch_size title generator",
    "label": "pairs labeler store chunk progress",
    "evaluate": "policy sft prompts sampling reward labeler independent batch_size draws seed",
    "Policy.from_pretrained": "model tokenizer trunk_layers lora device dtype template seed frozen "
    "gradient_checkpointing revision trust_remote_code",
    "RewardModel.from_pretrained": "model tokenizer trunk_layers lora device dtype template "
    "max_response_tokens seed frozen pooling",
    "SFTModule": "backbone lora template max_response_tokens optimizer scheduler seed "
    "micro_batch_tokens",
    "RewardModule": "reward references probe_penalty optimizer scheduler micro_batch_tokens",
    "DPOModule": "backbone lora template beta max_response_tokens optimizer scheduler seed "
    "micro_batch_tokens",
    "A2CModule": "actor reward sampling shaping advantages vf_coef ent_coef value_lr_scale "
    "optimizer scheduler micro_batch_tokens rollout",
    "Advantages": "gamma gae_lambda baseline whiten scale loss",
    "WeightedRewards": "rewards weights names",
    "Labeling": "labeler relabel retry_failed store progress",
    "ActorCritic": "backbone lora template value_network seed",
    "PreferenceDataModule": "task preferences prompts demonstrations validation "
    "validation_fraction labeling batch_size eval_batch_size drop_last bucket seed",
    "SamplingParams": "n max_new_tokens temperature top_k top_p min_p stop stop_token_ids seed",
    "Prompt": "text group reference columns messages",
    "Preference": "prompt first second group p_first weight source provenance messages",
}


def test_importing_the_package_loads_no_torch():
    found = subprocess.run(
        [sys.executable, "-c", LOADS_NOTHING], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", rlaif_pl.__all__)
def test_every_public_name_loads(name):
    value = getattr(rlaif_pl, name)
    assert value is getattr(rlaif_pl, name)
    assert value.__name__.rpartition(".")[2] == name
    assert name in dir(rlaif_pl)


def test_type_checkers_see_what_the_table_has():
    tree = ast.parse(Path(rlaif_pl.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == rlaif_pl._HOMES
    assert sorted(homes) == sorted(rlaif_pl.__all__)


def test_rooms_give_their_names_to_type_checkers():
    package = Path(rlaif_pl.__file__).parent
    private = []  # neither in `__all__` nor imported as what they are: of a typed package, its own
    for path in package.rglob("*/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if any(isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__" for n in body):
            continue
        names = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
        private += [f"{path.parent.name}.{a.name}" for a in names if a.name != a.asname]
    assert private == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'rlaif_pl' has no attribute 'PPOModule'"):
        rlaif_pl.PPOModule  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_kept(name):
    first, _, method = name.partition(".")
    value = getattr(rlaif_pl, first)
    value = getattr(value, method) if method else value
    assert list(inspect.signature(value).parameters) == SIGNATURES[name].split()


def test_the_documentation_lists_every_name():
    text = (Path(rlaif_pl.__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in rlaif_pl.__all__ if f"`{name}`" not in text] == []
