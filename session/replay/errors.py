"""What a replay raises, and the report of where a program parted from its recording."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from session.errors import SessionError

Cause: TypeAlias = Literal[
    "model",
    "system",
    "tools",
    "message edited",
    "message added",
    "message missing",
    "parameter",
    "extra call",
    "missing call",
    "tool result changed",
    "order",
]
"""What kind of change it was. "order": what was done at the same time, or one after the other, in another order."""

_SAID: Final[dict[Cause, str]] = {
    "model": "the model is another one",
    "system": "the system prompt is not the recorded one",
    "tools": "the tools are not the recorded ones",
    "message edited": "a message is not the recorded one",
    "message added": "there is a message that the recording has not",
    "message missing": "a message of the recording is missing",
    "parameter": "a parameter is not the recorded one",
    "extra call": "the recording has no such call",
    "missing call": "a recorded call was not made",
    "tool result changed": "the result of a tool is not the recorded one",
    "order": "the order is not the recorded one",
}
_MOST: Final = 160
_LEAD: Final = 24  # characters shown before the first that differs


class Divergence(msgspec.Struct, frozen=True):
    """The first difference between a program and its recording.

    It is at the event *version* of the session, which is the recorded request; *pointer* (RFC 6901) leads to the place
    in its body. *before* is what was recorded there and *after* what the program has, as JSON; "": nothing. *call* says
    which call it is, *frame* is the line of the program that made it, or that ended the replay; "" where a task has
    none. *fork_at* is the version at which both were still the same.
    """

    session_id: str
    version: int
    cause: Cause
    pointer: str = ""
    before: str = ""
    after: str = ""
    call: str = ""
    frame: str = ""
    notes: tuple[str, ...] = ()
    fork_at: int = 0

    @property
    def place(self) -> str:
        """The address of the event."""
        return f"{self.session_id}@{self.version}"

    def __str__(self) -> str:
        before, after = _around(self.before, self.after)
        lines = [f"replay diverged at {self.place}: {_SAID[self.cause]} ({self.cause})"]
        for name, text in (("call", self.call), ("where", self.pointer), ("recorded", before), ("now", after)):
            if text or (name in {"recorded", "now"} and (before or after)):
                lines.append(f"  {name:<9} {_plain(text) or '(nothing)'}")
        if self.frame:
            lines.append(f"  {'called at':<9} {_plain(self.frame)}")
        lines += [f"  {'note':<9} {_plain(note)}" for note in self.notes]
        if self.fork_at:
            lines.append(f"  {'the same':<9} up to {self.session_id}@{self.fork_at}: fork there to go on")
        return "\n".join(lines)


class ReplayError(SessionError):
    """Base of what a replay raises. Nothing was sent."""


class ReplayDivergedError(ReplayError):
    """The program does not do what was recorded. Its attributes are those of `divergence`; its text is a report."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence)
        self.divergence = divergence

    def __str__(self) -> str:
        return f"{self.divergence}\n  nothing was sent"

    @property
    def session_id(self) -> str:
        """See `Divergence`."""
        return self.divergence.session_id

    @property
    def version(self) -> int:
        """See `Divergence`."""
        return self.divergence.version

    @property
    def cause(self) -> Cause:
        """See `Divergence`."""
        return self.divergence.cause

    @property
    def pointer(self) -> str:
        """See `Divergence`."""
        return self.divergence.pointer

    @property
    def before(self) -> str:
        """See `Divergence`."""
        return self.divergence.before

    @property
    def after(self) -> str:
        """See `Divergence`."""
        return self.divergence.after

    @property
    def frame(self) -> str:
        """See `Divergence`."""
        return self.divergence.frame


class ResponseNotRecordedError(ReplayError):
    """The request at *version* was recorded, and what came of it was not, or not to its end: the *reason* says why."""

    def __init__(self, session_id: str, version: int, reason: str) -> None:
        super().__init__(session_id, version, reason)
        self.session_id = session_id
        self.version = version
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}; nothing was sent"

    @property
    def what(self) -> str:
        """The place, and the reason, in one line: also where a replay goes on with the real API."""
        return f"{self.session_id}@{self.version} has no response to replay: {_plain(self.reason)}"


class NothingToReplayError(ReplayError):
    """The session holds no request: it was imported or saved, not recorded."""

    def __init__(self, session_id: str, reason: str = "it holds no request; was it recorded?") -> None:
        super().__init__(session_id, reason)
        self.session_id = session_id
        self.reason = reason

    def __str__(self) -> str:
        return f"session {self.session_id} cannot be replayed: {self.reason}"


class ReplayOverError(ReplayError):
    """The program went on with a replay that was left or closed."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"the replay of session {self.session_id} is over; nothing was sent"


def _around(before: str, after: str) -> tuple[str, str]:
    """Both, from a little before the first character in which they differ."""
    pairs = zip(before, after, strict=False)
    differs = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
    start = max(0, differs - _LEAD) if max(len(before), len(after)) > _MOST else 0
    return _window(before, start), _window(after, start)


def _window(text: str, start: int) -> str:
    shown = text[start : start + _MOST]
    return f"{'...' if start and text else ''}{shown}{'...' if len(text) > start + _MOST else ''}"


def _plain(text: str) -> str:
    """*text* in one line of ASCII: content is hostile."""
    return ascii(text)[1:-1].replace("\\'", "'").replace('\\"', '"').replace("\\\\", "\\")
