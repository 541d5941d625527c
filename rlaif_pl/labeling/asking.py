"""Between strategies and back ends: no call is made twice, every reply is kept and counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlaif_pl.labeling.calls import Backend, Call, CallKey, Response, key_of
from rlaif_pl.labeling.guard import MIN_OPTION_MASS, low_mass_warning, readable


class ReplyCache(Protocol):
    """Where replies are kept between runs."""

    def get_many(self, keys: Sequence[CallKey]) -> dict[bytes, Response]:
        """Return the replies that are there, by digest."""

    def put(self, key: CallKey, call: Call, reply: Response, fingerprint: str) -> None:
        """Keep a reply; it is on disk when this returns."""


@dataclass(eq=False)
class CachedClient:
    """Asks a back end what is not known yet; its ``ask`` is what strategies are given.

    Replies are kept as they came and handed on as ``guard.readable`` lets them pass.
    """

    backend: Backend  # who answers
    # keeps replies between runs; None keeps them for the life of this object only
    store: ReplyCache | None = None
    # told of every new reply (progress, spending); may raise to stop before further calls
    watch: Callable[[Call, Response], None] | None = None
    min_option_mass: float = MIN_OPTION_MASS  # least probability of a choice's options together
    _has_warned: bool = field(default=False, init=False)
    _known: dict[bytes, Response] = field(default_factory=dict, init=False)

    def ask(self, calls: Sequence[Call]) -> list[Response]:
        """Return a reply for each call, in order; failures come back as replies, too."""
        fingerprint = self.backend.fingerprint
        keys = [key_of(fingerprint, call) for call in calls]
        unknown = [key for key in keys if key.digest not in self._known]
        if self.store is not None and unknown:
            self._known |= self.store.get_many(unknown)
        fresh = {
            key.digest: (key, call)
            for key, call in zip(keys, calls, strict=True)
            if key.digest not in self._known
        }
        asked = list(fresh.values())

        def done(place: int, reply: Response) -> None:
            key, call = asked[place]
            if self.store is not None:
                self.store.put(key, call, reply, fingerprint)
            self._known[key.digest] = reply
            if self.watch is not None:
                self.watch(call, reply)

        if asked:
            self.backend.answer([call for _, call in asked], done)
        replies = [
            readable(call, self._known[key.digest], self.min_option_mass)
            for key, call in zip(keys, calls, strict=True)
        ]
        text = low_mass_warning(calls, replies, self.min_option_mass)
        if text is not None and not self._has_warned:
            self._has_warned = True
            warnings.warn(text, stacklevel=2)
        return replies
