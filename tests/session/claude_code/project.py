"""Writes transcripts as Claude Code does, line by line, for the tests of their import."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "claude-sonnet-4-5-20250929"


class Conversation:
    """One transcript in the making: each method adds a line and returns its uuid."""

    def __init__(self, number: int, *, sidechain: bool = False, agent: str = "") -> None:
        self.session_id = str(uuid.UUID(int=number << 96 | 7, version=4))
        self.lines: list[dict[str, Any]] = []
        self._count = number * 10_000
        self._always: dict[str, Any] = {"isSidechain": True} if sidechain else {}
        if agent:
            self._always |= {"agentId": agent}

    def user(self, parent: str | None, content: Any, **more: Any) -> str:
        """What a person, or a tool, says."""
        return self._line("user", parent, {"role": "user", "content": content}, **more)

    def assistant(self, parent: str | None, message_id: str, *blocks: Any, usage: Any = None, **more: Any) -> str:
        """A part of a response."""
        message = {"id": message_id, "type": "message", "role": "assistant", "model": MODEL, "content": list(blocks)}
        used = usage or {"input_tokens": 100, "output_tokens": 10}
        return self._line("assistant", parent, {**message, "usage": used}, requestId=f"req_{message_id}", **more)

    def result(self, parent: str, call: str, text: str = "done", **more: Any) -> str:
        """The result of a tool."""
        return self.user(parent, [{"type": "tool_result", "tool_use_id": call, "content": text}], **more)

    def other(self, kind: str, parent: str | None = None, **more: Any) -> str:
        """A line of the tree that is no message."""
        return self._line(kind, parent, None, **more)

    def bare(self, kind: str, **more: Any) -> None:
        """A line outside the tree."""
        self.lines.append({"type": kind, **more})

    def text(self, start: int = 0) -> str:
        """The lines from number *start* on."""
        return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.lines[start:])

    def write(self, folder: Path) -> Path:
        """The file of this conversation, as far as it has come."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.session_id}.jsonl"
        path.write_text(self.text())
        return path

    def _line(self, kind: str, parent: str | None, message: Any, **more: Any) -> str:
        self._count += 1
        own = str(uuid.uuid5(uuid.NAMESPACE_OID, str(self._count)))
        line = {
            "parentUuid": parent,
            "isSidechain": False,
            "cwd": "/home/ann/work",
            "sessionId": self.session_id,
            "version": "2.0.14",
            "gitBranch": "main",
            "type": kind,
            "uuid": own,
            "timestamp": f"2026-05-01T10:{self._count // 60 % 60:02}:{self._count % 60:02}.000Z",
            **self._always,
            **more,
        }
        self.lines.append({**line, "message": message} if message is not None else line)
        return own


def text(words: str) -> dict[str, str]:
    """A text block."""
    return {"type": "text", "text": words}


def call(tool_use_id: str, name: str = "Bash") -> dict[str, Any]:
    """A tool_use block."""
    return {"type": "tool_use", "id": tool_use_id, "name": name, "input": {"command": "ls"}}
