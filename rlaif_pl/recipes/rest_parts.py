"""Parts of a long loop, each in a folder of its own: finished ones are skipped, others resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rlaif_pl.data.metric_files import move_aside, write_json

RECORD = "part.json"
Result = dict[str, float]


class Parts:
    """Runs parts of a loop, or finds that they have been run.

    A part's fingerprint covers what it is given and the fingerprints of the parts before it. A part
    with the same fingerprint is skipped where it is finished and goes on in its folder where it was
    interrupted; with another, its folder is moved below ``replaced`` and it starts over.
    """

    def __init__(self, out: Path, start: Mapping[str, object]) -> None:
        self.out = out
        self.fingerprint = _digest(dict(start))
        self.skipped = 0

    def run(
        self, name: str, given: Mapping[str, object], work: Callable[[Path], Result]
    ) -> tuple[Path, Result]:
        """Return a part's folder and its result; ``work`` depends on ``given`` and can go on there."""
        self.fingerprint = _digest({"before": self.fingerprint, "name": name, "given": dict(given)})
        folder = self.out / name
        path = folder / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except json.JSONDecodeError as error:
            record = error
        if not isinstance(record, dict):
            raise ValueError(
                f"expected the record of a part at {path}, got {record!r:.200}; delete its folder to "
                "run the part again"
            )
        if record.get("fingerprint") == self.fingerprint:
            if record.get("result") is not None:
                self.skipped += 1
                return folder, record["result"]
        elif folder.exists():
            move_aside(self.out, folder)
        write_json(path, {"fingerprint": self.fingerprint, "result": None})
        result = work(folder)
        write_json(path, {"fingerprint": self.fingerprint, "result": result})
        return folder, result


def _digest(content: object) -> str:
    """Digest anything that JSON can hold; other values count by their text."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
