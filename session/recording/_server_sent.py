"""Server-sent events out of chunks, no later than any reader of the stream could see them. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import msgspec


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """An event: its name, "" if it has none, and its data."""

    name: bytes
    data: bytes


class Splitter:
    """Feed it a body, chunk by chunk."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line whose end has not come
        self._after_return = False
        self._name = b""
        self._data: list[bytes] = []

    @property
    def is_between(self) -> bool:
        """Whether nothing of an event that is still to be completed has come."""
        return not (self._rest or self._data or self._name or self._after_return)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that *chunk* completes."""
        if self._after_return and chunk[:1] == b"\n":  # the second half of a line's end
            chunk = chunk[1:]
        if chunk:
            self._after_return = chunk.endswith(b"\r")
        lines = chunk.splitlines(keepends=True)  # bytes are split at \n, \r and \r\n only
        begun = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        if lines and self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest = []
        if begun:
            self._rest.append(begun)
        return [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            event = ServerSentEvent(self._name, b"\n".join(self._data))
            self._name, self._data = b"", []
            return event if event.data else None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        return None
