"""Labels in one file a rank, where processes of several nodes cannot share a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rlaif_pl.data.disk import replace_end
from rlaif_pl.data.label_store import Texts, texts_of
from rlaif_pl.data.records import decode_fields, encode
from rlaif_pl.types import Preference


class LabelParts:
    """Files of labels by one labeler, one a rank, to be merged at the end; ``rank``'s is written to.

    For a network file system, which SQLite cannot use. A kill costs the line that was being written.
    """

    def __init__(self, folder: str | Path, fingerprint: str, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.name = hashlib.blake2b(fingerprint.encode(), digest_size=8).hexdigest()
        self.path = self.folder / f"{self.name}-rank{rank:05d}.jsonl"
        self._end: int | None = None  # size of rank's file when it was last written to here

    def read(self) -> dict[Texts, Preference]:
        """Return the labels in all ranks' files, failures included; a label wins over a failure."""
        found: dict[Texts, Preference] = {}
        for path in sorted(self.folder.glob(f"{self.name}-rank*.jsonl")):
            *lines, _ = path.read_bytes().split(b"\n")  # what follows the last was cut by a kill
            for line in lines:
                pair: Preference = decode_fields(Preference, json.loads(line), str(path))
                texts = texts_of(pair)
                if pair.p_first is not None or texts not in found or found[texts].p_first is None:
                    found[texts] = pair
        return found

    def append(self, labeled: Sequence[Preference]) -> None:
        """Add labels to this rank's file; they are on disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = "".join(encode(pair) + "\n" for pair in labeled).encode()
        self.path.touch()
        if self._end != self.path.stat().st_size:  # a kill may have left a part of a line
            self._end = self.path.read_bytes().rfind(b"\n") + 1
        self._end = replace_end(self.path, data, self._end, sync=True) + len(data)
