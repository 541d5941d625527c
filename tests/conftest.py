"""Shared fixtures: devices, seeds, and no network or W&B account in any test."""

import os

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Yield each device; skip cuda where there is none, unless the job promised one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.environ.get("RLAIF_PL_REQUIRE_CUDA") == "1":
            pytest.fail("RLAIF_PL_REQUIRE_CUDA=1 but torch sees no CUDA device")
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def quiet_world(monkeypatch):
    """Fix the seed, forbid hub downloads and W&B uploads."""
    torch.manual_seed(0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
