"""What the tests of live sessions share: a loop around a test, a storage to look into, tools to call."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from anthropic import beta_async_tool, beta_tool

from eventstore import MemoryEventLog
from session.storage import EventSessionStorage
from session.testing import Exact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from session.events import AnyEvent
    from session.live import Received, Session

MODEL = "claude-sonnet-5-5"


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """*test*, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        async def awaited() -> None:
            await test(*args, **fixtures)

        asyncio.run(awaited())

    return run


def in_memory() -> EventSessionStorage:
    return EventSessionStorage(MemoryEventLog())


async def talk(chat: Session, message: Any = None) -> list[Received]:
    """Send *message*, if there is one, and receive the whole answer."""
    if message is not None:
        await chat.send(message)
    return [part async for part in chat.receive()]


async def events_of(storage: EventSessionStorage, session_id: str) -> list[AnyEvent]:
    return [stored.event async for stored in storage.events(session_id)]


async def types_of(storage: EventSessionStorage, session_id: str, *, after: int = 0) -> list[str]:
    return [stored.type async for stored in storage.events(session_id, after=after)]


def streamed(*blocks: str, usage: str = '{"input_tokens":9,"output_tokens":1}') -> Exact:
    """A stream of exactly these blocks, each in one piece."""
    message = f'"id":"msg_1","type":"message","role":"assistant","model":"{MODEL}","content":[],"usage":{usage}'
    events = [f'{{"type":"message_start","message":{{{message}}}}}']
    for index, block in enumerate(blocks):
        events += [
            f'{{"type":"content_block_start","index":{index},"content_block":{block}}}',
            f'{{"type":"content_block_stop","index":{index}}}',
        ]
    events += ['{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}', '{"type":"message_stop"}']
    return Exact(body=b"".join(f"data: {event}\n\n".encode() for event in events))


def kinds(parts: Iterable[Received]) -> list[str]:
    """Their types, deltas left out."""
    return [part.type for part in parts if part.type not in ("text", "thinking")]


def shown(parts: Iterable[Received]) -> str:
    return "".join(part.text for part in parts if part.type == "text")


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@beta_async_tool
async def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    return str(a * b)
