"""Options that commands which compare policies have in common."""

from __future__ import annotations

from dataclasses import dataclass


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
        draws: Bootstrap resamples.
        show_text: Whether samples.jsonl, which the report shows, holds texts or their hashes; None
            shows them unless the prompts are sensitive (harmful requests).
        independent: Also ask a judge that trained nothing here (sentence embeddings).
    """

    independent: bool = True
