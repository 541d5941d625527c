"""Requests to one vLLM server, with failures told apart: it is gone, or it refuses."""

from __future__ import annotations

import math
from typing import Any

import httpx

CONNECT_S = 10.0


class ServerGoneError(ConnectionError):
    """A server that cannot be reached, gives no answer in time, or fails by itself."""


class RefusedError(ValueError):
    """A request that a server refuses; asking again would not help.

    Attributes:
        status: HTTP status, 4xx.
        sentence: What the server said.
        is_route: Whether the server knows the path at all.
    """

    def __init__(self, url: str, path: str, status: int, sentence: str, is_route: bool) -> None:
        super().__init__(f"{url}{path} answered {status}: {sentence}")
        self.status, self.sentence, self.is_route = status, sentence, is_route


class Client:
    """One server, at an address with or without ``/v1``; ``transport`` None is the network."""

    def __init__(
        self, base_url: str, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.timeout_s = timeout_s
        self._transport = transport
        self._http = self._opened()

    def _opened(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=self._transport,
            trust_env=False,
        )

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at a path; see ``post``."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any], timeout_s: float = math.inf) -> dict[str, Any]:
        """Post JSON and return what is answered, a text under ``text``; else an error from above.

        ``timeout_s`` shortens the client's own.
        """
        return self._ask("POST", path, body, timeout_s)

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float = math.inf
    ) -> dict[str, Any]:
        most = min(timeout_s, self.timeout_s)
        wait = httpx.Timeout(most, connect=min(CONNECT_S, most), pool=None)
        try:
            reply = self._http.request(method, path, json=body, timeout=wait)
        except httpx.TimeoutException as error:
            raise ServerGoneError(
                f"{self.url} gave no answer to {path} within {most:g} s"
            ) from error
        except httpx.TransportError as error:
            raise ServerGoneError(f"{self.url} cannot be reached: {error}") from error
        if reply.is_success:
            return _json(reply)
        said, is_route = _sentence(reply)
        if reply.status_code >= 500:
            raise ServerGoneError(f"{self.url}{path} answered {reply.status_code}: {said}")
        raise RefusedError(self.url, path, reply.status_code, said, is_route)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._http.close()
        self._http = self._opened()


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        found = reply.json()
    except ValueError:
        return {"text": reply.text}
    return found if isinstance(found, dict) else {"text": reply.text, "value": found}


def _sentence(reply: httpx.Response) -> tuple[str, bool]:
    """What an error says, and whether the path is one of the server's."""
    found = _json(reply)
    error = found.get("error", found)
    said = error.get("message") if isinstance(error, dict) else error
    is_bare = found == {"detail": "Not Found"}
    text = str(said or found.get("detail") or reply.text)
    return " ".join(text.split())[:600], not is_bare
