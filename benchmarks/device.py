"""Where a benchmark runs: the options ``--device`` and ``--dtype``, and what they mean.

The default is the CPU, on a machine with a GPU too: the commands of docs/performance.md measure what
they always did. ``--device cuda`` takes the GPU; what is not given then has sizes and a type that suit
one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from rlaif_pl.models.device import resolve_device
from rlaif_pl.ops._library import backend_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

DtypeName = Literal["float32", "bfloat16"]
DTYPES = ("float32", "bfloat16")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Device and type of a benchmark.

    Attributes:
        device: Where tensors and models are.
        dtype: Type of what is measured; a trainer's autocast where models are trained.
    """

    device: torch.device
    dtype: torch.dtype

    @property
    def is_cuda(self) -> bool:
        """Whether it is an NVIDIA GPU."""
        return self.device.type == "cuda"

    @property
    def dtype_name(self) -> DtypeName:
        """The type as options name it."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    @property
    def precision(self) -> Literal["bf16-mixed", "32-true"]:
        """The type as a trainer's precision."""
        return "bf16-mixed" if self.dtype == torch.bfloat16 else "32-true"

    def pick(self, on_cpu: T, on_gpu: T, given: T | None = None) -> T:
        """Return what was given, else what suits the device."""
        if given is not None:
            return given
        return on_gpu if self.is_cuda else on_cpu

    def autocast(self) -> torch.autocast:
        """Compute as a trainer does in ``precision``."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def synchronize(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def facts(self) -> dict[str, Any]:
        """What a benchmark's JSON says of the place."""
        kernels = backend_of("gae", self.device.type)
        return {"device": device_name(self.device), "dtype": self.dtype_name, "kernels": kernels}

    def trainer(self, *callbacks: Callback, **options: Any) -> Trainer:
        """Return a Lightning trainer for this place alone that says and keeps nothing."""
        from lightning.pytorch import Trainer

        return Trainer(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.is_cuda else 1,
            precision=self.precision,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    def child_environment(self) -> dict[str, str]:
        """Variables with which another process sees this GPU alone, as ``cuda``."""
        if not self.is_cuda:
            return dict(os.environ)
        number = self.device.index or 0
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = seen.split(",")[number] if seen else str(number)
        return {**os.environ, "CUDA_VISIBLE_DEVICES": own}


def add_device_options(parser: argparse.ArgumentParser, default: str = "by the device") -> None:
    """Add ``--device`` and ``--dtype``; the help says what the latter is by default."""
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help=f"(default: {default})")


def place_of(given: argparse.Namespace, on_gpu: torch.dtype = torch.bfloat16) -> Place:
    """Return the place that the options name; ends the program in one sentence where there is none.

    Args:
        given: Parsed options.
        on_gpu: Type on a GPU where none is given; on a CPU it is float32.
    """
    try:
        return make_place(given.device, given.dtype, on_gpu)
    except ValueError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def make_place(
    device: str, dtype: str | None = None, on_gpu: torch.dtype = torch.bfloat16
) -> Place:
    """Return the place of a device by name.

    Raises:
        ValueError: This machine has no such device, or benchmarks cannot time it.
    """
    found = resolve_device(device)
    if found.type == "mps" and device == "auto":
        found = torch.device("cpu")
    if found.type == "mps":
        raise ValueError("expected --device auto, cpu, cuda or cuda:N, got mps; take cpu there")
    if found.type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)  # events and statistics are those of the current device
    usual = on_gpu if found.type == "cuda" else torch.float32
    return Place(found, usual if dtype is None else getattr(torch, dtype))


def device_name(device: torch.device) -> str:
    """Return what the maker calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    lines: Sequence[str] = file.read_text().splitlines() if file.is_file() else ()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def step_peers(place: Place) -> list[str]:
    """Return the peers of a training step that are installed and suit the device."""
    has_trl, has_liger = (
        importlib.util.find_spec(name) is not None for name in ("trl", "liger_kernel")
    )
    peers = ["trl"] if has_trl else []
    peers += ["trl_liger"] if has_trl and has_liger and place.is_cuda else []
    return peers if peers and not place.is_cuda else [*peers, "padded"]
