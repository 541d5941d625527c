"""What an error is to a user: foreseen or not, what to do about it; and refusals of wrong settings."""

from __future__ import annotations

import errno
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

# Errors of libraries that are no ValueError, OSError or RuntimeError; looked for where they are loaded.
OF_LIBRARIES = (
    ("lightning.fabric.utilities.exceptions", "MisconfigurationException"),  # devices, strategies
    ("safetensors", "SafetensorError"),  # damaged weights
    ("pickle", "UnpicklingError"),  # damaged checkpoints
)
INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders of libraries, on every system
GO_ON = "then give the same command again"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def foreseen_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that end a command with a sentence in place of a traceback."""
    found = [getattr(sys.modules.get(module), name, None) for module, name in OF_LIBRARIES]
    return (ValueError, OSError, RuntimeError, ImportError, *filter(None, found))


def is_of_user(error: BaseException) -> bool:
    """Tell whether code of a user's own was running, such as a reward or a callback.

    Messages of such an error say nothing of where it came from. A user's code is what is neither this
    package's, nor Python's, nor an installed library's.
    """
    chain: BaseException | None = error
    while chain is not None:
        frames = traceback.walk_tb(chain.__traceback__)
        if not all(_is_installed(frame.f_code.co_filename) for frame, _ in frames):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _is_installed(name: str) -> bool:
    """Tell whether a source file is this package's, Python's or an installed library's."""
    file = Path(name)
    folders = [Path(__file__).parent, Path(sysconfig.get_path("stdlib"))]
    return (
        not file.is_absolute()  # `<frozen runpy>`
        or not INSTALLED.isdisjoint(file.parts)
        or any(file.is_relative_to(folder) for folder in folders)
    )


def explained(error: BaseException) -> str:
    """Return an error's message; those of the system and of damaged files with what to do."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return _of_system(error)
    name = type(error).__name__
    if name == "SafetensorError" and "I/O error" in str(error):
        return f"expected room and permission to write weights, got: {error}; {GO_ON}"
    if name == "SafetensorError":
        return (
            f"expected weights in safetensors files, got something else ({error}); a file of the model "
            "named is damaged or was not written to its end: make it or download it again"
        )
    if name == "UnpicklingError":
        return (
            "expected a checkpoint of Lightning, got a file that cannot be read as one: damaged, or of "
            "another kind; name another with --ckpt_path, or leave that out to start over"
        )
    if name == "MisconfigurationException" and "backend found" in str(error):
        return (
            f"expected the device that trainer.accelerator names, got: {error} Take auto, or see what "
            "there is with: python -m rlaif_pl doctor"
        )
    return _without_dump(str(error))


def _without_dump(message: str) -> str:
    """Return what is wrong with a config, without all that the parser tried and the config itself."""
    lines = [line.strip() for line in message.splitlines()]
    if not lines or not lines[0].startswith("Does not validate against"):
        return message
    end = next((n for n, line in enumerate(lines) if line.startswith("Given value type:")), None)
    reasons = [line[2:] for line in lines[:end] if line.startswith("- ")]
    told = [reason for reason in reasons if not reason.startswith("Expected a <class")]
    return "; ".join(told) or message


def _of_system(error: OSError) -> str:
    """Explain what the system refused."""
    place = error.filename if error.filename is not None else "a file"
    said, number = error.strerror, error.errno
    if number in NO_ROOM:
        return (
            f"expected room to write {place}, got: {said}; free some or name a place on another disk; "
            f"{GO_ON}"
        )
    if number in NOT_ALLOWED:
        return f"expected to be allowed to use {place}, got: {said}; name another place"
    if number in (errno.EEXIST, errno.ENOTDIR):
        return (
            f"expected a folder at {place}, got: {said}; a file is in the way: name another place"
        )
    if number == errno.EISDIR:
        return f"expected a file at {place}, got a folder; name a file"
    if number == errno.ENOENT:
        if _makes_folder(error):
            return f"expected to be allowed to make {place}, got: {said}; name another place"
        return f"expected a file or folder at {place}, found nothing; check the name"
    return str(error)


def paired(prompts: Sequence[str], responses: Sequence[str]) -> None:
    """Refuse (ValueError) prompts and responses that are not two lists with one response a prompt."""
    for name, texts in (("prompts", prompts), ("responses", responses)):
        if isinstance(texts, str):
            raise ValueError(f"expected {name} to be a list of texts, got one; put it into a list")
    if len(prompts) != len(responses):
        raise ValueError(
            f"expected one response a prompt, got {len(prompts)} prompts and {len(responses)} "
            "responses; repeat a prompt for each of its responses"
        )


def _makes_folder(error: OSError) -> bool:
    """Tell whether a folder was to be made: /proc and its like then say that there is none."""
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not {"mkdir", "makedirs", "mkdtemp"}.isdisjoint(frames[-1:])


def at_least(least: float, **values: float | None) -> None:
    """Refuse (ValueError) settings below a bound, and NaN; None is one that was left out."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")


def above(bound: float, **values: float | None) -> None:
    """Refuse (ValueError) settings that are not above a bound; see ``at_least``."""
    for name, value in values.items():
        if value is not None and not value > bound:
            raise ValueError(f"expected {name} above {bound}, got {value}")


def within(least: float, most: float, **values: float | None) -> None:
    """Refuse (ValueError) settings outside two bounds that are allowed; see ``at_least``."""
    for name, value in values.items():
        if value is not None and not least <= value <= most:
            raise ValueError(f"expected {name} in [{least}, {most}], got {value}")


def one_of(choices: Any, **values: object) -> None:
    """Refuse (ValueError) settings, None too, that are not among the values of a ``Literal``."""
    known = get_args(choices)
    for name, value in values.items():
        if value not in known:
            said = " or ".join(map(repr, known))
            raise ValueError(f"expected {name} to be {said}, got {value!r}")
