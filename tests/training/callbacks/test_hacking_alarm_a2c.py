"""The alarm stops a real A2C run of a tiny model, and the best policy is what is exported."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.training import A2CModule, ConstantWithWarmup, PreferenceDataModule
from rlaif_pl.training.callbacks import AlarmLimits, ExportModel, HackingAlarm


class Letters:
    """Pays for one letter, so that a policy learns to repeat it."""

    def score(self, prompts, responses):  # noqa: ARG002
        return torch.tensor([float(text.count("e")) for text in responses])


@pytest.fixture
def stopped(tmp_path, tiny_model_folder, data_files):
    """Train with an alarm on KL; returns trainer, alarm and module."""
    backbone = BackboneOptions(str(tiny_model_folder), trunk_layers=2)
    module = A2CModule(
        ActorCritic(backbone, lora=Lora(r=4, alpha=8)),
        Letters(),
        sampling=SamplingParams(n=2, max_new_tokens=6, temperature=0.9),
        optimizer=partial(torch.optim.AdamW, lr=3e-2),
        scheduler=ConstantWithWarmup,
    )
    data = PreferenceDataModule(
        "prompts", prompts=data_files.prompts, batch_size=4, validation_fraction=0.2
    )
    alarm = HackingAlarm("stop", AlarmLimits(kl=0.3), window=1, patience=2)
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_steps=30,
        max_epochs=-1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        callbacks=[
            alarm,
            ExportModel("policy"),
            ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_top_k=0),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with pytest.warns(UserWarning, match=r"reward hacking alarm at step \d+: kl is"):
        trainer.fit(module, data)
    return trainer, alarm, module


def test_a_run_is_stopped_and_its_best_policy_exported(stopped, tmp_path):
    trainer, alarm, module = stopped
    (raised,) = [each for each in alarm.alarms if each["quantity"] == "kl"]
    assert trainer.global_step == raised["step"] < 30
    assert 0 < alarm.kept["step"] < raised["since"]
    kept = torch.load(tmp_path / "checkpoints/before_alarm.ckpt", weights_only=True)
    assert kept["global_step"] == alarm.kept["step"]
    now = {name: value.detach() for name, value in module.trained().items()}
    torch.testing.assert_close(now, kept["state_dict"], rtol=0, atol=0)
    # what was exported is the kept policy, not the last
    ids = torch.tensor([[5, 6, 7, 8]])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(kept["state_dict"], strict=False)
    module.actor.save_pretrained(tmp_path / "kept")
    module.load_state_dict(last, strict=False)
    module.actor.save_pretrained(tmp_path / "last")
    logits = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()(ids).logits
        for name in ("kept", "last")
    ]
    torch.testing.assert_close(exported(ids).logits, logits[0])
    assert not torch.allclose(exported(ids).logits, logits[1], atol=1e-3)
