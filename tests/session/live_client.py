"""A program that is killed while it receives. It acknowledges on its standard output what it was told.

Importing takes most of a short life, so one process imports everything and forks a client for each line of its
standard input: `path session_id port`, the session being created if it does not exist. Nothing is open when it forks.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from anthropic import AsyncAnthropic, beta_async_tool, beta_tool

from session.errors import SessionNotFoundError
from session.live import create_session, resume_session
from session.storage import EventSessionStorage

MODEL = "claude-sonnet-5-5"


def acknowledge(what: str, value: Any = None) -> None:
    os.write(1, json.dumps([what, value]).encode() + b"\n")


def tools_of(path: Path, session_id: str) -> list[Any]:
    """Two tools that leave a trace when they begin."""

    @beta_async_tool
    async def walk(word: str) -> str:
        """Takes a while."""
        _leave(path, session_id)
        for _ in range(5):
            await asyncio.sleep(0.001)
        return f"walked {word}"

    @beta_tool
    def run(word: str) -> str:
        """In a thread."""
        _leave(path, session_id)
        return f"ran {word}"

    return [walk, run]


def _leave(path: Path, session_id: str) -> None:
    with path.with_suffix(".begun").open("a") as file:
        file.write(f"{session_id}\n")


async def converse(path: Path, session_id: str, port: int) -> None:
    client = AsyncAnthropic(api_key="none", base_url=f"http://127.0.0.1:{port}", max_retries=0)
    options: dict[str, Any] = {"tools": tools_of(path, session_id), "client": client}
    async with client, EventSessionStorage(path) as storage:
        try:
            opening = resume_session(session_id, session_storage=storage, **options)
            chat = await opening
        except SessionNotFoundError:
            chat = await create_session(model=MODEL, session_id=session_id, session_storage=storage, **options)
        acknowledge("opened")
        async with chat:
            for number in range(2):
                await chat.send(f"Ask {number}")
                acknowledge("sent", f"Ask {number}")
                async for part in chat.receive():
                    match part.type:
                        case "tool_use":
                            acknowledge(part.type, part.id)
                        case "message":
                            acknowledge(part.type, part.message)
                        case "tool_result":
                            acknowledge(part.type, [part.tool_use_id, part.content])
                        case "stop":
                            acknowledge(part.type, part.version)
                        case _:
                            acknowledge(part.type)


def main() -> None:
    acknowledge("ready")
    for line in sys.stdin:
        path, session_id, port = line.split()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(converse(Path(path), session_id, int(port)))
                status = 0
            finally:
                os._exit(status)
        acknowledge("began", pid)
        _, status = os.waitpid(pid, 0)
        acknowledge("ended", status)


if __name__ == "__main__":
    main()
