"""samples.jsonl: what policies answered, a row a prompt, shown or concealed; options for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.data.records import group_of
from rlaif_pl.text import concealed

FILE = "samples.jsonl"
HIDDEN_TEXTS = "sample_texts.jsonl"  # beside a samples.jsonl that holds hashes
GREEDY = "greedy"  # of metrics and columns: each policy's likeliest response
PLAIN = "group"  # the column that names a prompt without being a text of it

Row = Mapping[str, object]


def write_samples(folder: Path | str, rows: Iterable[Row], *, show_text: bool = True) -> None:
    """Write FOLDER/samples.jsonl, which the report may show: a row a prompt of texts, lists, numbers.

    Without ``show_text`` texts stand there as hashes, and as they are in ``sample_texts.jsonl``, which
    nothing shows.
    """
    shown, hidden = list(rows), Path(folder) / HIDDEN_TEXTS
    if show_text:
        hidden.unlink(missing_ok=True)  # of an earlier run: readers would take them for these
    else:
        write_json_lines(hidden, shown)
        shown = [{k: v if k == PLAIN else _hidden(v) for k, v in row.items()} for row in shown]
    write_json_lines(Path(folder) / FILE, shown)


def samples_at(path: Path | str) -> Path:
    """Return the file to read: of a samples.jsonl that holds hashes, that of the texts beside it.

    FileNotFoundError where there is none.
    """
    named = Path(path)
    hidden = named.with_name(HIDDEN_TEXTS)
    found = hidden if named.name == FILE and hidden.is_file() else named
    if not found.is_file():
        raise FileNotFoundError(
            f"expected samples at {named}, there are none; make them with evaluate policy or "
            "evaluate matrix"
        )
    return found


def group_in(row: Row, prompt: str) -> str:
    """Return the identity of a row's prompt: as it stands there, or made of the text."""
    group = row.get(PLAIN)
    return group if isinstance(group, str) and group else group_of(prompt)


def _hidden(value: object) -> object:
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return concealed(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Reporting:
    """How sure figures are said to be, and what of the texts is shown.

    Attributes:
        draws: Bootstrap resamples.
        show_text: Whether samples.jsonl, which the report shows, holds texts or their hashes; None
            shows them unless the prompts are sensitive (harmful requests).
    """

    draws: int = 2000
    show_text: bool | None = None

    def shows(self, is_sensitive: bool) -> bool:
        """Tell whether texts are shown."""
        return not is_sensitive if self.show_text is None else self.show_text


@dataclass(frozen=True)
class PolicyReporting(Reporting):
    """As ``Reporting``, with the judges beside the labeler.

    Attributes:
        independent: Also ask a judge that trained nothing here (sentence embeddings).
    """

    independent: bool = True
