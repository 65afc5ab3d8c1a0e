"""The program that the demo kills: `python -m session.demo.killed STORE SESSION`.

It asks for something that takes long. The client finds key and address in the environment, as any program of the SDK
does.
"""

from __future__ import annotations

import asyncio
import sys

from session.demo import station
from session.live import resume_session
from session.storage import EventSessionStorage

_LONG_SECONDS = 600.0


async def converse(store: str, session_id: str) -> None:
    """One turn, which does not come to its end."""
    async with EventSessionStorage(store) as storage:
        tools = station.tools(slow_seconds=_LONG_SECONDS)
        async with resume_session(session_id, tools=tools, session_storage=storage) as chat:
            await chat.send(station.CALIBRATE)
            async for _ in chat.receive():
                pass


if __name__ == "__main__":
    asyncio.run(converse(sys.argv[1], sys.argv[2]))
