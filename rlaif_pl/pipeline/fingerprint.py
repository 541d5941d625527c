"""What a stage's result depends on, so that it runs again exactly when that changes.

Not covered: versions of other libraries, the machine, and data sets and models named on a hub.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.yaml_files import Value, flatten

CONTENT_LIMIT = 64 * 2**20  # bytes; a larger file counts by size and time of change
FOLDER_LIMIT = 4096  # files of one folder that are looked at
# Keys of what stages write. `replies`, `store` and `states` are read too, to spare what is known:
# several experiments may share them, and no result depends on what they hold.
WRITTEN = frozenset(("out", "default_root_dir", "dirpath", "save_dir", "adapter_dir", "export_to"))
WRITTEN |= {"replies", "store", "states"}
# Parts that only look at finished results: they count for `report` alone, so that work on them does
# not train again.
LATE_PARTS = ("reporting", "evaluation/human", "pipeline")
PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digests of all a stage depends on."""

    config: str  # of command and config, with `${out}` left symbolic: a run folder may be renamed
    code: str  # of the package below the command
    data: Mapping[str, str]  # of each local file or folder the config names outside the run folder
    upstream: Mapping[str, str]  # of each stage it needs

    @property
    def digest(self) -> str:
        """One digest of all parts."""
        return _digest(json.dumps(asdict(self), sort_keys=True).encode())

    def changes_since(self, old: Fingerprint) -> list[str]:
        """Name the parts that differ from an older fingerprint."""
        changed = [name for name in ("config", "code") if getattr(self, name) != getattr(old, name)]
        for part in ("data", "upstream"):
            mine, theirs = getattr(self, part), getattr(old, part)
            keys = sorted({**mine, **theirs})
            changed += [f"{part} {key}" for key in keys if mine.get(key) != theirs.get(key)]
        return changed


def fingerprints(experiment: Experiment, package: Path = PACKAGE) -> dict[str, Fingerprint]:
    """Return the fingerprint of every stage by its name."""
    late, early = code_digest(package, ()), code_digest(package, LATE_PARTS)
    found: dict[str, Fingerprint] = {}
    for stage in experiment.stages:
        content = {"command": stage.command, "config": experiment.resolve(stage, "${out}")}
        written = WRITTEN - {"replies"} if stage.command == "export" else WRITTEN
        found[stage.name] = Fingerprint(
            _digest(json.dumps(content, sort_keys=True).encode()),
            late if stage.command == "report" else early,
            dict(data_digests(experiment.resolve(stage), experiment.out, written)),
            {need: found[need].digest for need in stage.needs},
        )
    return found


def code_digest(package: Path, without: tuple[str, ...]) -> str:
    """Digest every file of a package folder, except byte code and the named parts."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(package.rglob("*")):
        place = path.relative_to(package).as_posix()
        is_without = any(place == part or place.startswith(f"{part}/") for part in without)
        if not is_without and "__pycache__" not in path.parts and path.is_file():
            total.update(f"{place} {_digest(path.read_bytes())}\n".encode())
    return total.hexdigest()


def data_digests(
    config: Mapping[str, Value], out: Path, written: frozenset[str] = WRITTEN
) -> Iterator[tuple[str, str]]:
    """Digest the local files and folders named in a config, outside the run folder.

    A folder counts only where its name has a ``/``, so that a word like ``cpu`` is not taken for
    one, and not if it holds the run folder. What stands under a ``written`` key does not count, nor
    the folder of an ``ExportModel``.
    """
    run, leaves = out.resolve(), flatten(dict(config))
    read = set()
    for key, value in leaves.items():
        front, _, last = key.rpartition(".")
        owner = str(leaves.get(f"{front.removesuffix('.init_args')}.class_path"))
        is_written = last in written or last == "folder" and owner.endswith(".ExportModel")
        is_name = isinstance(value, str) and 0 < len(value) <= 1024 and "\n" not in value
        if is_name and not is_written:
            read.add(str(value))
    for value in sorted(read):
        path = Path(os.path.expanduser(value))
        where = path.resolve()
        if where == run or run in where.parents or where in run.parents:
            continue
        if path.is_file():
            yield value, _file_digest(path)
        elif "/" in value and path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.is_file())[:FOLDER_LIMIT]
            rows = [f"{each.relative_to(path)} {_file_digest(each)}" for each in files]
            yield value, _digest("\n".join(rows).encode())


def _file_digest(path: Path) -> str:
    facts = path.stat()
    if facts.st_size > CONTENT_LIMIT:
        return f"{facts.st_size} bytes, {facts.st_mtime_ns}"
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
