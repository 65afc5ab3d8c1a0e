"""Turns as the fold grows them: one is open, the others are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.state import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable


class OpenTurns:
    """The turns so far. The newest one grows in place, so that an event costs no allocation."""

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._done = list(turns)
        self._first = 0  # 0: no turn is open
        self._reopen()

    def begin(self, version: int, recorded_at: int, message_index: int) -> None:
        """An ask, which is the message at *message_index*, begins the next turn."""
        self._close()
        self._number = self._done[-1].number + 1 if self._done else 1
        self._first = self._last = version
        self._began_at = self._ended_at = recorded_at
        self._message_index = message_index

    def extend(self, version: int, recorded_at: int) -> None:
        """The newest turn lasts until *version*. What comes before the first ask belongs to no turn."""
        self._last = version
        self._ended_at = recorded_at

    def rewind(self, message_index: int, version: int, recorded_at: int) -> None:
        """Messages from *message_index* on are gone, and with them the turns that began there.

        A turn that lost its end only has its end at the rewind: at that version its messages are what they are now.
        """
        self._close()
        end: int | None = None  # where the newest turn that stays used to end
        while self._done and self._done[-1].message_index >= message_index:
            end = self._done.pop().message_index
        self._reopen()
        if end != message_index:
            self.extend(version, recorded_at)

    @property
    def newest_index(self) -> int | None:
        """The message index of the newest turn's ask."""
        return self._message_index if self._first else None

    def frozen(self) -> tuple[Turn, ...]:
        """All turns, the newest as it stands."""
        return (*self._done, self._newest()) if self._first else tuple(self._done)

    def _newest(self) -> Turn:
        return Turn(
            number=self._number,
            first=self._first,
            last=self._last,
            began_at=self._began_at,
            ended_at=self._ended_at,
            message_index=self._message_index,
        )

    def _close(self) -> None:
        if self._first:
            self._done.append(self._newest())
            self._first = 0

    def _reopen(self) -> None:
        if self._done:
            newest = self._done.pop()
            self._number, self._message_index = newest.number, newest.message_index
            self._first, self._last = newest.first, newest.last
            self._began_at, self._ended_at = newest.began_at, newest.ended_at
