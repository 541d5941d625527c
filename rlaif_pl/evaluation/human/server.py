"""Serve the rating page until it is stopped."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import uvicorn
from rich.console import Console

from rlaif_pl.evaluation.human.app import LOOPBACK, PageOptions, build_app


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(16)


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


def is_local(host: str) -> bool:
    """Tell whether only this machine reaches a server on this address."""
    return host in LOOPBACK
