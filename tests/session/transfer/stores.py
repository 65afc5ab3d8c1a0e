"""What the tests of imports and exports share: stores in a directory, and their heads."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from session.storage import BlockingEventSessionStorage
from session.transfer import Report, export_events, import_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORDED = Path(__file__).parents[4] / "shared" / "data" / "agent-sessions.jsonl"
"""Thirteen conversations of agents, where there are any; the tests work without."""


@contextlib.contextmanager
def store(path: Path) -> Iterator[BlockingEventSessionStorage]:
    """A store that need not survive the machine."""
    with BlockingEventSessionStorage(path, durability="os") as opened:
        yield opened


def heads(opened: BlockingEventSessionStorage) -> dict[str, tuple[int, bytes]]:
    """Version and digest of every living session."""
    return {
        entry.stream: (entry.version, entry.digest) for entry in opened.log.checkpoint().entries if not entry.deleted
    }


def exported(opened: BlockingEventSessionStorage, ids: Iterable[str] | None = None) -> bytes:
    """The sessions as events, line by line."""
    written = io.BytesIO()
    export_events(opened.log, opened.list() if ids is None else ids, written.write)
    return written.getvalue()


def imported(opened: BlockingEventSessionStorage, path: Path, **options: Any) -> Report:
    return Report(import_path(opened, path, **options))


def recorded_lines() -> bytes:
    """Thirteen conversations, one per line: recorded ones, or made up in their form."""
    return RECORDED.read_bytes() if RECORDED.exists() else b"".join(map(_made_up, range(13)))


def _made_up(number: int) -> bytes:
    def call(step: int) -> dict[str, Any]:
        use = {"type": "tool_use", "id": f"toolu_{step}", "name": "bash", "input": {"command": f"step {step}"}}
        return {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]}

    def result(step: int) -> dict[str, Any]:
        block = {"type": "tool_result", "tool_use_id": f"toolu_{step}", "content": "x\u2028\\n" * step * 50}
        return {"role": "user", "content": [block]}

    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": f"Issue {number} é"}]}]
    for step in range(number + 3):
        messages += [call(step), result(step)]
    line = {"id": f"swe-{number + 1:02}", "source": f"{number}.traj", "system": "You are.", "messages": messages}
    return json.dumps(line).encode() + b"\n"
