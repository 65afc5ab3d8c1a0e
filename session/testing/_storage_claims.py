"""What the contract's claims are made of: how a claim becomes a test, and the values that are put in."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from session.state import SessionState
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from session.storage import SessionStorage

    Claim = TypeVar("Claim", bound=Callable[..., Any])


class Contract(Protocol):
    """What a claim needs of the class it belongs to."""

    directory: Path

    async def within(self, path: Path, use: Callable[[SessionStorage], Awaitable[None]]) -> None:
        """Open a storage at *path*, use it, close it."""


C = TypeVar("C", bound=Contract)

HOSTILE_IDS: Final = (
    "",
    "a" * 129,
    "a" * 300,
    "../x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "nul\0byte",
    "\ud800",
    "é",
    "line\n",
    "a b",
    ".hidden",
    "dot.",
    "CON",
    "nul",
    "com1.txt",
)
"""Ids that no storage takes."""

EXACT_MESSAGES: Final = (
    b'{"role":"user","content":"plain"}',
    b'{ "content" : [ {"type":"text","text":"caf\\u00e9 \xc3\xa9"} ], "role" : "assistant" }',
    b'{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"Eq+/=="}]}',
    b'{"role":"assistant","content":[{"type":"unknown","n":1.10,"m":1.1,"none":null}]}',
    b'{"role":"user","content":[{"type":"text","text":"x","n":' + b"9" * 400 + b"}]}",
    b'{"role":"user","content":[{"type":"text","text":"x","n":' + b"9" * 5_000 + b"}]}",
    b'{"role":"user","role":"user","content":"a","content":"duplicate keys"}',
    b'{"role":"user","content":"\\ud83d lone surrogate"}',
    b'{"role":"user","content":NaN}',
    b'{"role":"user","content":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    b' {"role":"user","content":"blanks around it"}\n',
    b'{"role":"user","content":"torn',
    b"\xff\xfe no text at all",
    b"",
    b'{"type":"unreadable","base64":"aGk="}',
)
"""Messages whose bytes have to come back as they are."""


def _usage(**fields: Any) -> Usage:  # noqa: ANN401 - of any type: that is what is wrong with them
    return Usage(**fields)


BAD_FIELDS: Final[tuple[tuple[str, Any], ...]] = (
    *((time, bad) for time in ("created_at", "updated_at") for bad in (1.5, 1_700_000_000_000.0, True, "1", None)),
    *(("parent_id", bad) for bad in (5, b"sess", ["sess"])),
    *(("usage", bad) for bad in ({}, {"input_tokens": 5}, None, _usage(unpriced="1"), _usage(cost_picodollars=0.5))),
    *(("usage", _usage(counters=((path, count),))) for path, count in (("n", 1.5), ("n", True), (7, 1))),
)
"""What no storage takes, by the field of the state."""

BAD_METADATA: Final[tuple[Any, ...]] = (None, [], [1], "title", 7)
"""What is no mapping."""


def rich_state(session_id: str) -> SessionState:
    """A state in which every field that a storage keeps has something to say."""
    return SessionState.new(
        session_id,
        messages=EXACT_MESSAGES,
        usage=Usage.from_raw(
            {"input_tokens": 7, "cache_creation": {"ephemeral_5m_input_tokens": 3}, "new": 10**20}, 12
        ),
        metadata={"title": "t\ud800", "nested": {"b": [1, 2.5, None, True]}, "a": ""},
        parent_id="sess_parent",
        now=1_700_000_000_123,
    )


def nested(levels: int) -> list[Any]:
    """Lists inside one another."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def claim(test: Callable[[C, SessionStorage], Awaitable[None]]) -> Callable[[C], None]:
    """Make *test*, a claim about a storage, a test that pytest runs on a new storage."""

    def run(self: C) -> None:
        asyncio.run(self.within(self.directory / "storage", lambda storage: test(self, storage)))

    run.__name__, run.__qualname__, run.__module__ = test.__name__, test.__qualname__, test.__module__
    return run


def only_if(flag: str) -> Callable[[Claim], Claim]:
    """The claim is made by subclasses in which *flag* is true."""

    def mark(test: Claim) -> Claim:
        test.only_if = flag  # type: ignore[attr-defined]
        return test

    return mark


async def saved(storage: SessionStorage, state: SessionState) -> SessionState:
    """Save *state*; the one to go on from."""
    return await storage.save(state) or state


async def loaded_from(storage: SessionStorage, session_id: str) -> SessionState:
    """The session, which is there."""
    state = await storage.load(session_id)
    assert state is not None
    return state


def check_same(loaded: SessionState | None, state: SessionState) -> None:
    """*loaded* has what every storage keeps of *state*. When it was updated may be when it was written."""
    assert loaded is not None
    assert loaded.messages.raw == state.messages.raw
    for field in ("id", "usage", "metadata", "created_at", "parent_id"):
        assert getattr(loaded, field) == getattr(state, field), field
    assert json.dumps(loaded.metadata) == json.dumps(state.metadata)  # in the same order, 1 apart from True
    assert loaded.updated_at >= state.updated_at
