"""Models kept from packing: they run as those do whose architecture cannot pack."""

import torch

from rlaif_pl.engine.capabilities import Capabilities
from rlaif_pl.engine.runner import DecoderRunner

UNPACKED = Capabilities(packs=False, prunes=False, decodes=False, reason="a test wants it so")
KINDS = [(kind, dtype) for kind in ("cpu", "cuda") for dtype in (torch.float32, torch.bfloat16)]


def unpack(module, packs=False):
    """Keep every decoder of a module, and copies made of it, from packing; or leave all as they are."""
    for part in module.modules():
        if isinstance(part, DecoderRunner) and not packs:
            part._capabilities = dict.fromkeys(KINDS, UNPACKED)
    return module
