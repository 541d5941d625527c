"""Show how far a labeler has come where a caller does not divide its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rlaif_pl.labeling.asking import CachedClient
from rlaif_pl.labeling.calls import Call, Response
from rlaif_pl.types import Labeler

Watch = Callable[[Call, Response], None]


@contextmanager
def counted_replies(labeler: Labeler, title: str) -> Iterator[None]:
    """Count a labeler's new replies on the terminal's error stream while it judges.

    Args:
        labeler: One that asks a model, or several that do; of any other nothing is shown.
        title: What it is doing.
    """
    clients = _clients(labeler)
    if not clients:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} replies"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, visible=False)  # until there is a reply
        before = [client.watch for client in clients]

        def counting(told: Watch | None) -> Watch:
            def watch(call: Call, reply: Response) -> None:
                if told is not None:
                    told(call, reply)
                bar.update(task, advance=1, visible=True)

            return watch

        for client, told in zip(clients, before, strict=True):
            client.watch = counting(told)
        try:
            yield
        finally:
            for client, told in zip(clients, before, strict=True):
                client.watch = told


def _clients(labeler: object) -> list[CachedClient]:
    """What a labeler and its parts ask their models by."""
    own = getattr(labeler, "asker", None)
    parts = [client for part in getattr(labeler, "labelers", ()) for client in _clients(part)]
    return [*([own] if isinstance(own, CachedClient) else []), *parts]
