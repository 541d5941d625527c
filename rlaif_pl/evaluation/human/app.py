"""The rating page, what it fetches, and its server. None ever holds the name of a policy."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jinja2
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import StringConstraints
from rich.console import Console
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rlaif_pl.evaluation.human.records import Answer, Person, shown_order
from rlaif_pl.evaluation.human.store import RatingStore
from rlaif_pl.evaluation.human.tasks import RatingTask, texts_for

HEADERS = {
    # all comes from this server, nothing is inline, no page may frame this one
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may have the token in it
    "Cache-Control": "no-store",
}
PARTS = {"marks.js": "text/javascript", "rate.js": "text/javascript", "rate.css": "text/css"}
TOKEN_HEADER = "X-Rating-Token"
LARGEST_BODY = 2**16  # bytes; a rating has a few thousand at most
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What the page says and asks for."""

    question: str  # what people are asked, above the responses
    raters_per_prompt: int = 3  # rankings wanted of each task, by people and, apart, by models
    hide_text: bool = False  # whether texts wait behind a click
    acceptable: bool = True  # whether the page asks of each text whether it is acceptable
    ties: bool = False  # whether two texts may be equally good
    host: str = LOOPBACK[0]  # address the server binds to
    token: str | None = None  # what an address must have in it; None: only this machine reaches it


class RatingAnswer(Answer):
    """An answer to a task that was shown; its ranks are by place on the page."""

    task: Key
    submission: Key


class Undo(Person):
    """A rating to take back."""

    submission: Key


class Desk:
    """Hands out tasks and takes ratings."""

    def __init__(self, store: RatingStore, options: PageOptions) -> None:
        self.store = store
        self.options = options
        self.tasks = store.tasks()
        self.seed = int(store.facts()["seed"])

    def next(self, rater: str, **more: object) -> dict[str, Any]:
        """Return the next task of a rater with the state of things."""
        found, others = self.store.next_task(rater, self.options.raters_per_prompt)
        state = "task" if found else "waiting" if others else "done"
        task = self.show(rater, self.tasks[found]) if found else None
        asks = {name: getattr(self.options, name) for name in ("question", "acceptable", "ties")}
        said = {"state": state, "task": task, "progress": self.progress(rater), "asks": asks}
        return said | more

    def take(self, answer: RatingAnswer) -> dict[str, Any]:
        """Commit a rating and return the next task."""
        task = self._task(answer.task)
        self.declare(answer)
        order = shown_order(self.seed, answer.rater, task.id, len(task.items))
        try:
            rating = answer.rating(answer.submission, task.id, order, self.options.ties)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return self.next(answer.rater, is_new=self.store.put(rating))

    def undo(self, asked: Undo) -> dict[str, Any]:
        """Take a rating back and return its task with what was said of it."""
        rating = self.store.undo(asked.rater, asked.submission)
        if rating is None:
            raise HTTPException(404, "expected a rating of yours to undo, there is none")
        shown = self.show(asked.rater, self._task(rating.task))
        for name, said in (("ranks", rating.ranks), ("acceptable", rating.acceptable)):
            if said is not None:
                shown[name] = [said[item] for item in rating.shown]
        return {"state": "task", "task": shown, "progress": self.progress(asked.rater)}

    def show(self, rater: str, task: RatingTask) -> dict[str, Any]:
        """Return what a person sees of a task: texts in their order, no policy."""
        return {"id": task.id, "prompt": task.prompt, "texts": texts_for(self.seed, rater, task)}

    def progress(self, rater: str) -> dict[str, Any]:
        """Return how far this person and all are."""
        return asdict(self.store.progress(rater, self.options.raters_per_prompt))

    def declare(self, person: Person) -> None:
        """Keep what a rater is, or refuse it."""
        try:
            self.store.declare(person.rater, person.kind)
        except ValueError as error:
            raise HTTPException(409, str(error)) from error

    def _task(self, key: str) -> RatingTask:
        if key not in self.tasks:
            raise HTTPException(404, "expected a task of this page; load the page again")
        return self.tasks[key]


def build_app(path: Path, options: PageOptions) -> FastAPI:
    """Return the application over a file of ratings that was begun."""
    desks: list[Desk] = []

    @asynccontextmanager
    async def opened(_: FastAPI) -> AsyncIterator[None]:
        """Open the file in the thread that serves: SQLite keeps a connection to one thread."""
        with RatingStore(path) as store:
            desks.append(Desk(store, options))
            yield
            desks.clear()

    app = FastAPI(lifespan=opened, docs_url=None, redoc_url=None, openapi_url=None)
    page, parts = _page(options)
    _guard(app, options)

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/part/{name}")
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, "no such part")
        return Response(parts[name], media_type=PARTS[name])

    # Not in threads: a request takes milliseconds, and the connection belongs to this one.
    @app.post("/api/next")
    async def ask(person: Person) -> dict[str, Any]:
        desks[0].declare(person)
        return desks[0].next(person.rater)

    @app.post("/api/rating")
    async def answer(given: RatingAnswer) -> dict[str, Any]:
        return desks[0].take(given)

    @app.post("/api/undo")
    async def undo(asked: Undo) -> dict[str, Any]:
        return desks[0].undo(asked)

    return app


def _page(options: PageOptions) -> tuple[str, dict[str, str]]:
    loader = jinja2.PackageLoader("rlaif_pl.evaluation.human", "page")
    env = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    said = {n: getattr(options, n) for n in ("question", "hide_text", "acceptable", "ties")}
    page = env.get_template("rate.html.j2").render(said)
    return page, {name: loader.get_source(env, name)[0] for name in PARTS}


def _guard(app: FastAPI, options: PageOptions) -> None:
    """Ask for the token, refuse foreign host names and pages, and send the headers."""
    if options.host in LOOPBACK:
        # another page cannot reach this server under a name of its own (DNS rebinding)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])

    @app.middleware("http")
    async def guarded(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        given = request.headers.get(TOKEN_HEADER) or request.query_params.get("token") or ""
        is_open = options.token is None or request.url.path.startswith("/part/")
        if not (is_open or secrets.compare_digest(given.encode(), str(options.token).encode())):
            response = Response("expected the token in the address; ask for the link", 403)
        elif refused := refusal(request):
            response = refused
        else:
            response = await proceed(request)
        response.headers.update(HEADERS)
        return response


def refusal(request: Request) -> Response | None:
    """Refuse what another page sent (browsers say so, programs say nothing) or is too much to read."""
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return Response("expected a request of this page; another page sent it", 403)
    size = request.headers.get("content-length", "")
    if not size.isdecimal():
        return Response("expected the length of the body in Content-Length", 411)
    if int(size) > LARGEST_BODY:
        return Response(f"expected a body of at most {LARGEST_BODY} bytes", 413)
    return None


def serve(path: Path, options: PageOptions, port: int, console: Console) -> None:
    """Serve until Ctrl-C or a signal; what was sent is on disk. ``OSError``: no such address."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, port), family=family)
    except OSError as error:
        raise OSError(
            f"expected to listen on {options.host} port {port}, got {error}; name another "
            "--page.port (0 takes a free one) or --page.host"
        ) from error
    with listener:
        link = address(options, listener.getsockname()[1])
        console.print(f"rate at {link}", highlight=False, soft_wrap=True)
        config = uvicorn.Config(build_app(path, options), log_level="warning", access_log=False)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # Ctrl-C, which the server raises again once it has stopped
            console.print("stopped")


def address(options: PageOptions, port: int) -> str:
    """Return the link to give to people."""
    host = options.host
    if host in ("0.0.0.0", "::"):  # every address of this machine
        host = socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"?token={options.token}" if options.token else "")
