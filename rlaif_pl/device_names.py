"""Names of devices as commands and experiments take them, without torch."""

from __future__ import annotations

import re

KINDS = "auto, cpu, cuda, cuda:N or mps"
NAME = re.compile(r"(auto|cpu|mps|cuda)(?::(\d+))?")


def parse_device(name: str) -> tuple[str, int | None]:
    """Split the name of a device into its kind and its number; ``ValueError``: it is no such name."""
    found = NAME.fullmatch(name)
    # torch itself writes a Mac's one GPU as mps:0
    numbered = found is not None and found[2] is not None and found[0] != "mps:0"
    if found is None or (numbered and found[1] != "cuda"):
        raise ValueError(f"expected device to be {KINDS}, got {name!r}; take one of them")
    return found[1], int(found[2]) if numbered else None


def trainer_options(name: str) -> dict[str, str | list[int]]:
    """Return the options of Lightning's trainer that take a device; ``ValueError``: it is no such name.

    One with a number takes that GPU alone; else how many is the config's matter.
    """
    kind, number = parse_device(name)
    return {"accelerator": kind} | ({} if number is None else {"devices": [number]})
