"""What the model reads: contexts and targets of each wording, and the cache of what it answered."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pairs import HumanPair

Call = tuple[str, str]  # context, target
Wording = Callable[[HumanPair, str], Call]


def titled(pair: HumanPair) -> str:
    """Post with its subreddit and title, as in the prompt of arXiv 2009.01325."""
    return f"SUBREDDIT: r/{pair.subreddit}\nTITLE: {pair.title}\nPOST: {pair.post}"


CHAT = "<|im_start|>{role}\n{text}<|im_end|>\n"
TURN = "<|im_start|>assistant\n"


def chat(text: str) -> str:
    """One user's message and the opening of the answer, in the model's chat format."""
    return CHAT.format(role="user", text=text) + TURN


WORDINGS: dict[str, Wording] = {
    # the post given the summary
    "recon": lambda p, s: (f"TL;DR: {s}\n\nPOST:", f" {p.post}"),
    "recon_titled": lambda p, s: (f"TL;DR: {s}\n\n", titled(p)),
    "recon_title_first": lambda p, s: (
        f"SUBREDDIT: r/{p.subreddit}\nTITLE: {p.title}\nTL;DR: {s}\n\nPOST:",
        f" {p.post}",
    ),
    "recon_chat": lambda p, s: (
        chat(f"Write the Reddit post that this is a summary of:\n{s}"),
        p.post,
    ),
    # the title given the summary
    "title": lambda p, s: (f"TL;DR: {s}\n\nTITLE:", f" {p.title}"),
    # the summary given the post; the line break after it is part of the target
    "cond": lambda p, s: (f"POST: {p.post}\n\nTL;DR:", f" {s}\n"),
    "cond_titled": lambda p, s: (f"{titled(p)}\n\nTL;DR:", f" {s}\n"),
    "cond_chat": lambda p, s: (chat(f"{titled(p)}\n\nSummarize this post."), f"{s}\n"),
    # the summary without the post
    "alone": lambda _, s: ("TL;DR:", f" {s}\n"),
    "alone_titled": lambda p, s: (
        f"SUBREDDIT: r/{p.subreddit}\nTITLE: {p.title}\n\nTL;DR:",
        f" {s}\n",
    ),
    "alone_chat": lambda _, s: (chat("Summarize a post."), f"{s}\n"),
    # the post without a summary (the same for both)
    "post": lambda p, _: ("POST:", f" {p.post}"),
    "post_titled": lambda p, _: ("\n\n", titled(p)),
}


class Cache:
    """Log-probabilities by call, on disk; a killed run loses at most the call in flight.

    Args:
        path: SQLite file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(path, timeout=120)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS reads (key BLOB PRIMARY KEY, value BLOB)")

    @staticmethod
    def key(call: Call) -> bytes:
        """Identity of a call."""
        return hashlib.sha256("\0".join(call).encode()).digest()

    def get(self, call: Call) -> NDArray[np.float32] | None:
        """Log-probability of each token of the target in nats, or None where not read yet."""
        row = self.db.execute("SELECT value FROM reads WHERE key = ?", [self.key(call)]).fetchone()
        return None if row is None else np.frombuffer(row[0], np.float32)

    def put(self, call: Call, value: NDArray[np.float32]) -> None:
        """Keep what was read."""
        row = [self.key(call), value.astype(np.float32).tobytes()]
        with self.db:
            self.db.execute("INSERT OR REPLACE INTO reads VALUES (?, ?)", row)
