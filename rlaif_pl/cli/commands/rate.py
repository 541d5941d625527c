"""``rate``: responses ranked blind, on a page that may stay up for days, or by file. Without torch."""

from __future__ import annotations

import importlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from rich.console import Console

from rlaif_pl.data.metric_files import update_metrics
from rlaif_pl.errors import at_least
from rlaif_pl.evaluation.human.exchange import export_tasks as write_tasks
from rlaif_pl.evaluation.human.exchange import import_ratings as import_ratings_of
from rlaif_pl.evaluation.human.records import BY_KIND, MODELS
from rlaif_pl.evaluation.human.store import FILE, RatingStore
from rlaif_pl.evaluation.human.tasks import SamplesFile, read_samples
from rlaif_pl.text import refuse_spelled_breaks


@dataclass(frozen=True)
class RatingPage:
    """The rating page.

    Attributes:
        question: What people are asked.
        hide_text: Whether texts wait behind a click; None hides what the samples call sensitive.
        acceptable: Whether the page asks of each text whether it is acceptable (fluent, finished, about
            the prompt, nothing in it false).
        host: Address to listen on. Any but this machine's own (127.0.0.1) asks for the token in the
            link that is printed.
        port: Port; 0 takes a free one.
    """

    question: str = "Which response is best? Rank all of them."
    hide_text: bool | None = None
    acceptable: bool = True
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        refuse_spelled_breaks("page.question", self.question)


def rate(
    out: str,
    samples: str | None = None,
    policies: list[str] | None = None,
    raters_per_prompt: int = 3,
    per_prompt: int = 1,
    limit: int | None = None,
    seed: int = 0,
    page: RatingPage = RatingPage(),  # noqa: B008 - frozen
    ties: bool = False,
    export_tasks: str | None = None,
    rater: str | None = None,
    import_ratings: str | None = None,
) -> int:
    """Serve a page on which people rank the responses of several policies, until it is stopped.

    Every rating is in OUT/ratings.sqlite when the page goes on; the same command goes on after a stop
    or a kill. `evaluate ratings` says what came of it, at any time. Language models read as people do,
    by the same addresses (docs/rating.md), or by file: `--export_tasks` and `--import_ratings` serve
    nothing.

    Args:
        out: Folder for ratings.sqlite and metrics.json (how far people are).
        samples: samples.jsonl of evaluate policy or evaluate matrix; or rows with prompt, policy and
            response; or pairs with prompt, first and second. None goes on with what OUT has.
        policies: Policies to rank, 2 to 9; None takes all in the file, without the references
            (`reference`).
        raters_per_prompt: Rankings wanted of each prompt, by as many people; of models, apart.
        per_prompt: Rankings a prompt and person, at most: the k-th is of the policies' k-th responses.
        limit: Take the first so many prompts; None takes all.
        seed: Shuffles responses, by person and prompt.
        page: What the page says and asks for, and where it is.
        ties: Whether two texts may be equally good; the paper's raters had to choose.
        export_tasks: JSONL to write: the prompts that the rater has not rated, with texts in the order
            drawn for the rater, to be ranked elsewhere.
        rater: Name of the rater for whom tasks are exported.
        import_ratings: Such a file with ranks, to be taken whole or not at all.
    """
    at_least(1, raters_per_prompt=raters_per_prompt)
    is_file = export_tasks is not None or import_ratings is not None
    server = None if is_file else server_module()
    console, path = Console(), Path(out) / FILE
    with RatingStore(path) as store:
        if samples is not None:
            begin(store, read_samples(samples, policies, per_prompt, limit), samples, seed, console)
        elif not store.facts():
            raise ValueError(f"expected --samples for the new file {path}, got none")
        if import_ratings is not None:
            taken = import_ratings_of(store, import_ratings, ties)
            told = f"{taken.known} were here before, {taken.unfilled} rows are not filled in"
            say(console, f"{taken.new} ratings taken from {import_ratings}; {told}")
        if export_tasks is not None:
            count = write_tasks(store, rater or "", export_tasks)
            say(console, f"{count} prompts that {rater or ''} has not rated in {export_tasks}")
        if server is not None:
            is_local = page.host in server.LOOPBACK  # only this machine reaches it
            token = None if is_local else store.note("token", secrets.token_urlsafe(16))
            is_sensitive = store.facts()["sensitive"] == "1"
            is_hidden = is_sensitive if page.hide_text is None else page.hide_text
            wanted = f"{raters_per_prompt} rankings wanted of each"
            say(console, f"{len(store.tasks())} prompts, {wanted}")
    if server is not None:
        asked = (page.question, raters_per_prompt, is_hidden, page.acceptable, ties)
        say(console, f"ratings in {path}")
        server.serve(path, server.PageOptions(*asked, page.host, token), page.port, console)
    with RatingStore(path) as store:
        numbers = {
            f"{readers.prefix}/{name}": getattr(store.progress("", raters_per_prompt, kind), name)
            for kind, readers in BY_KIND.items()
            for name in ("done", "wanted")
        }
    if not numbers[f"{MODELS.prefix}/done"]:
        numbers = {key: n for key, n in numbers.items() if not key.startswith(MODELS.prefix)}
    update_metrics(Path(out) / "metrics.json", numbers)
    say(
        console,
        f"{numbers['rating/done']} of {numbers['rating/wanted']} rankings by people; what they say: "
        f"python -m rlaif_pl evaluate ratings --ratings {out} --out {out}",
    )
    return 0


def begin(store: RatingStore, read: SamplesFile, source: str, seed: int, console: Console) -> None:
    """Put samples into a new file, or see that they are those it was begun with."""
    store.begin(read.tasks, {"seed": str(seed), "policies": json.dumps(read.policies)})
    store.note("samples", str(Path(source).resolve()))
    store.note("sensitive", str(int(read.is_sensitive)))
    for reason, count in read.left_out.items():
        say(console, f"left out {count}: {reason}")


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def server_module() -> ModuleType:
    """Import the server on first use; ``RuntimeError``: what it needs is not installed."""
    try:
        return importlib.import_module("rlaif_pl.evaluation.human.app")
    except ImportError as error:
        raise RuntimeError(
            f"expected fastapi and uvicorn for the rating page, got: {error}; run: "
            "pip install 'rlaif_pl[rating]'"
        ) from error
