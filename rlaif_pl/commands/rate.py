"""``rate``: a page on which people rank responses without knowing who wrote them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

from rich.console import Console

from rlaif_pl.evaluation.metrics import update_metrics
from rlaif_pl.rating.store import FILE, RatingStore
from rlaif_pl.rating.tasks import read_samples

QUESTION = "Which response is best? Rank all of them."


def rate(
    out: str,
    samples: str | None = None,
    policies: list[str] | None = None,
    raters_per_prompt: int = 3,
    per_prompt: int = 1,
    limit: int | None = None,
    question: str = QUESTION,
    hide_text: bool | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    seed: int = 0,
) -> int:
    """Serve a page on which people rank the responses of several policies, until it is stopped.

    Every rating is in OUT/ratings.sqlite when the page goes on; the same command goes on after a stop
    or a kill. `evaluate ratings` says what came of it, at any time.

    Args:
        out: Folder for ratings.sqlite and metrics.json (how far people are).
        samples: samples.jsonl of evaluate policy or evaluate matrix; or rows with prompt, policy and
            response; or pairs with prompt, first and second. None goes on with what OUT has.
        policies: Policies to rank, 2 to 9; None takes all in the file, without the references
            (`reference`).
        raters_per_prompt: Rankings wanted of each prompt, by as many people.
        per_prompt: Rankings a prompt and person, at most: the k-th is of the policies' k-th responses.
        limit: Take the first so many prompts; None takes all.
        question: What people are asked.
        hide_text: Whether texts wait behind a click; None hides what the samples call sensitive.
        host: Address to listen on. Any but this machine's own (127.0.0.1) asks for the token in the
            link that is printed.
        port: Port; 0 takes a free one.
        seed: Shuffles responses, by person and prompt.
    """
    server = server_module()
    if raters_per_prompt < 1:
        raise ValueError(f"expected raters_per_prompt of at least 1, got {raters_per_prompt}")
    console = Console()
    path = Path(out) / FILE
    with RatingStore(path) as store:
        if samples is not None:
            read = read_samples(samples, policies, per_prompt, limit)
            store.begin(read.tasks, {"seed": str(seed), "policies": json.dumps(read.policies)})
            store.note("samples", str(Path(samples).resolve()))
            store.note("sensitive", str(int(read.is_sensitive)))
            for reason, count in read.left_out.items():
                console.print(f"left out {count}: {reason}", highlight=False)
        elif not store.facts():
            raise ValueError(f"expected --samples for the new file {path}, got none")
        token = None if server.is_local(host) else store.note("token", server.new_token())
        is_hidden = store.facts()["sensitive"] == "1" if hide_text is None else hide_text
        num_tasks = len(store.tasks())
    console.print(
        f"{num_tasks} prompts, {raters_per_prompt} rankings wanted of each; ratings in {path}",
        highlight=False,
        soft_wrap=True,
    )
    options = server.PageOptions(question, raters_per_prompt, is_hidden, host, token)
    server.serve(path, options, port, console)
    with RatingStore(path) as store:
        progress = store.progress("", raters_per_prompt)
    numbers = {"rating/done": progress.done, "rating/wanted": progress.wanted}
    update_metrics(Path(out) / "metrics.json", numbers)
    console.print(
        f"{progress.done} of {progress.wanted} rankings; what they say: "
        f"python -m rlaif_pl evaluate ratings --ratings {out} --out {out}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def server_module() -> ModuleType:
    """Import the server on first use.

    Raises:
        RuntimeError: What it needs is not installed.
    """
    try:
        return importlib.import_module("rlaif_pl.rating.server")
    except ImportError as error:
        raise RuntimeError(
            f"expected fastapi and uvicorn for the rating page, got: {error}; run: "
            "pip install 'rlaif_pl[rating]'"
        ) from error
