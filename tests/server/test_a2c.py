"""A2C with responses drawn by a server: the same losses, weights on the policy term, overlap."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.data.loader import BatchLoader, BatchOrder
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.engine import SamplingParams
from rlaif_pl.rl import LocalGenerator, VLLMGenerator
from rlaif_pl.rl.losses import truncated_weights
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.vllm.client import MOST_SEED
from rlaif_pl.training import A2CModule, LinearDecay, PreferenceDataModule
from rlaif_pl.training.rollouts import Rollouts
from rlaif_pl.types import Prompt


class Vowels:
    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        shares = [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in responses]
        return torch.tensor(shares)


class ServersSeeds(LocalGenerator):
    """Draws here with the seeds that a server takes: the first sample's, and those after it."""

    def generate(self, policy, prompts, params, seeds, *, keep_trunk=False, close=False):
        first = [seeds[n - n % params.n] % MOST_SEED for n in range(len(seeds))]
        spaced = [seed + n % params.n for n, seed in enumerate(first)]
        return policy.sample(prompts, params, spaced, keep_trunk=keep_trunk, close=close)


@pytest.fixture
def fit(actor_of, tmp_path):
    """Return a function that trains and gives what was logged by step."""
    prompts = [Prompt(f"Number {n} is", str(n)) for n in range(5)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)

    def fit(steps, rollout=None, folder=None, ckpt_path=None, parts=1, **settings):
        torch.manual_seed(0)
        module = A2CModule(
            actor_of(),
            Vowels(),
            sampling=SamplingParams(n=2, max_new_tokens=4),
            advantages=Advantages(baseline="rloo"),
            optimizer=partial(torch.optim.AdamW, lr=2e-2),
            scheduler=partial(LinearDecay, warmup_steps=1, total_steps=20),
            rollout=rollout,
            **settings,
        )
        logged = {}
        module.log_dict = lambda values, **_: logged.setdefault(module.global_step, {}).update(
            {name: value.item() for name, value in values.items()}
        )
        saved = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1)
        Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            callbacks=[saved] if folder else [],
            enable_checkpointing=folder is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            accumulate_grad_batches=parts,
        ).fit(
            module,
            PreferenceDataModule("prompts", prompts=str(tmp_path / "prompts.jsonl"), batch_size=2),
            ckpt_path=ckpt_path,
            weights_only=False,
        )
        return logged

    return fit


@pytest.fixture
def generator_of(tmp_path):
    folder = str(tmp_path / "weights")
    return lambda server, **how: VLLMGenerator(server.url, folder, tolerance=1e-4, **how)


def test_losses_through_a_server_are_those_of_the_local_sampler(fit, stand_in, generator_of):
    local, served = fit(4, ServersSeeds()), fit(4, generator_of(stand_in()))
    assert served.keys() == local.keys() == {0, 1, 2, 3}
    for step, values in local.items():
        for name, value in values.items():
            assert served[step][name] == pytest.approx(value, abs=2e-3), (step, name)
        assert served[step]["rollout/log_ratio_max"] < 1e-3
        assert served[step]["rollout/share_clipped"] == 0.0
    assert "rollout/log_ratio_mean" not in local[0]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_leaves_nothing_on_servers_and_disk(fit, stand_in, generator_of, tmp_path, overlap):
    server = stand_in()
    fit(2, generator_of(server, overlap=overlap))
    assert "/v1/load_lora_adapter" in server.log
    assert not server.loaded
    assert not list((tmp_path / "weights").iterdir())
    fit_until_killed(fit, generator_of(server, overlap=overlap), tmp_path / "cut")
    assert not server.loaded
    assert not list((tmp_path / "weights").iterdir())


def test_a_fitted_module_sends_its_weights_again(actor_of, stand_in, generator_of, moved):
    server, policy = stand_in(), actor_of().policy
    rollouts = Rollouts(generator_of(server))
    rollouts.prepare(policy, SamplingParams())
    for _ in range(2):
        moved(policy)
        rollouts.update(lambda: policy, 3)
        assert len(server.loaded) == 1
        rollouts.close()
        assert not server.loaded


def test_overlap_draws_from_weights_one_step_old_and_is_corrected(fit, stand_in, generator_of):
    server = stand_in()
    on, ahead = fit(4, generator_of(stand_in())), fit(4, generator_of(server, overlap=True))
    # the first step's own, and the second's, come from the first weights
    assert ahead[0] == pytest.approx(on[0], abs=1e-4)
    assert ahead[0]["rollout/log_ratio_max"] < 1e-3
    assert all(values["rollout/log_ratio_max"] < 1e-3 for values in on.values())
    assert max(values["rollout/log_ratio_max"] for values in ahead.values()) > 1e-3
    names = {body["model"] for body in server.asked if body["max_tokens"] == 4}
    assert len(names) == 3  # nobody asks ahead at the last step
    assert sum(body["max_tokens"] == 4 for body in server.asked) == 4 * 2


def test_a_run_that_was_killed_uses_what_it_had_asked(fit, stand_in, generator_of, tmp_path):
    whole = fit(4, generator_of(stand_in(), overlap=True))
    fit(2, generator_of(stand_in(), overlap=True), folder=tmp_path / "kept")
    kept = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=False)["rollouts"]
    assert kept == {}  # a finished run has asked for nothing more
    folder, server = tmp_path / "cut", stand_in()
    fit_until_killed(fit, generator_of(stand_in(), overlap=True), folder)
    kept = torch.load(folder / "last.ckpt", weights_only=True)["rollouts"]
    assert kept["step"] == 2
    again = fit(4, generator_of(server, overlap=True), ckpt_path=folder / "last.ckpt")
    assert again.keys() == {2, 3}
    for step, values in again.items():
        assert values == pytest.approx(whole[step], abs=2e-3)
    asked = [body["prompt"] for body in server.asked if body["max_tokens"] == 4]
    assert len(asked) == 2  # step 3 alone: step 2's responses were kept


@pytest.mark.server
@pytest.mark.slow
def test_a_real_server_overlaps_and_a_killed_run_uses_what_it_had_asked(
    fit, real_server, generator_of, tmp_path
):
    on, ahead = (fit(4, generator_of(real_server, overlap=flag)) for flag in (False, True))
    assert ahead[0] == pytest.approx(on[0], abs=1e-4)  # the same seeds, the same weights
    assert all(values["rollout/log_ratio_max"] < 1e-3 for values in on.values())
    assert max(values["rollout/log_ratio_max"] for values in ahead.values()) > 1e-3
    folder = tmp_path / "cut"
    fit_until_killed(fit, generator_of(real_server, overlap=True), folder)
    again = fit(4, generator_of(real_server, overlap=True), ckpt_path=folder / "last.ckpt")
    assert again.keys() == {2, 3}
    for step, values in again.items():
        assert values == pytest.approx(ahead[step], abs=2e-3)


class KilledError(Exception):
    pass


def fit_until_killed(fit, generator, folder):
    """End a run of four steps at the start of its third."""
    update, calls = generator.update, []

    def dying(policy):
        calls.append(policy)
        if len(calls) == 3:
            raise KilledError
        update(policy)

    generator.update = dying
    with pytest.raises(KilledError):
        fit(4, generator, folder=folder)


def test_overlap_is_refused_where_it_cannot_be(fit, stand_in, generator_of):
    with pytest.raises(ValueError, match=r"accumulate_grad_batches of 1 with rollout\.overlap"):
        fit(1, generator_of(stand_in(), overlap=True), parts=2)


def test_the_cap_of_the_weights_is_the_generators(actor_of, stand_in, generator_of):
    build = partial(A2CModule, actor_of(), Vowels(), advantages=Advantages(baseline="rloo"))
    capped = build(rollout=generator_of(stand_in(), importance_cap=1.5))
    assert capped.objective.importance_cap == 1.5
    assert build().objective.importance_cap == math.inf
    with pytest.raises(ValueError, match=r"importance_cap of at least 1, got 0\.5"):
        generator_of(stand_in(), importance_cap=0.5)


def test_weights_are_truncated_above_alone():
    ratio = torch.tensor([[-3.0, 0.0, 0.5, 2.0]])
    expected = torch.tensor([[-3.0, 0.0, 0.5, 0.6931472]]).exp()
    torch.testing.assert_close(truncated_weights(ratio, 2.0), expected)
    torch.testing.assert_close(truncated_weights(ratio, math.inf), ratio.exp())


def test_the_upcoming_batch_is_the_next_one_handed_out():
    order = BatchOrder(num_rows=5, batch_size=2, seed=3)
    loader = BatchLoader(list("abcde"), order)
    told, given = [], []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        for batch in loader:
            given.append(batch.rows)
            told.append(loader.upcoming().rows)
    assert told[:-1] == given[1:]
