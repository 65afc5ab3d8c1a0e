"""What the tests of recording share: a storage in memory, the events of a run, and what its sessions came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventstore import MemoryEventLog
from session import jsontext
from session.recording import chunks_of
from session.recording.digests import message_digest
from session.storage import EventSessionStorage
from session.storage._now import iterate_now, run_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from session.events import AnyEvent, ResponseInterrupted, ResponseReceived, StoredEvent
    from session.state import SessionState
    from session.testing import Call

MODEL = "claude-sonnet-5-5"
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 200}


def in_memory() -> EventSessionStorage:
    return EventSessionStorage(MemoryEventLog())


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def stored_of(storage: EventSessionStorage, session_id: str, *, after: int = 0) -> list[StoredEvent]:
    return list(iterate_now(storage.events(session_id, after=after)))


def events_of(storage: EventSessionStorage, session_id: str) -> list[AnyEvent]:
    return [stored.event for stored in stored_of(storage, session_id)]


def types_of(storage: EventSessionStorage, session_id: str, *, after: int = 0) -> list[str]:
    return [stored.type for stored in stored_of(storage, session_id, after=after)]


def state_of(storage: EventSessionStorage, session_id: str, at: int | None = None) -> SessionState:
    if at is not None:
        return run_now(storage.state_at(session_id, at))
    state = run_now(storage.load(session_id))
    assert state is not None
    return state


def digests(messages: Iterable[Any]) -> list[bytes]:
    return [message_digest(message) for message in messages]


def sent_to(call: Call) -> list[Any]:
    messages: list[Any] = call.json["messages"]
    return messages


def body_of(event: ResponseReceived | ResponseInterrupted, events: Sequence[AnyEvent]) -> list[bytes]:
    """The chunks of a response, rebuilt from what was recorded of its request."""
    blocks = [
        each for each in events if each.type == "block_received" and getattr(each, "request_id", "") == event.request_id
    ]
    blocks.sort(key=lambda block: getattr(block, "index", 0))
    found = chunks_of(event, [getattr(block, "block", b"") for block in blocks])
    assert found is not None
    return [chunk.data for chunk in found]


def parsed(raw: bytes) -> Any:
    return jsontext.parse(raw)
