"""Records what comes in for a session, and where to, if another writer goes on with the session meanwhile."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from session._finishing import finished
from session.errors import AnswerKeptInForkError
from session.storage import WrongVersionError

if TYPE_CHECKING:
    from session.events import SessionEvent
    from session.live._journal import Journal

KEPT: Final = "answer of a writer that was overtaken"
"""The reason that such a fork carries."""


class Keeping:
    """From the first conflict on everything goes to a fork, made where this writer last stood. Nothing paid is lost."""

    def __init__(self, journal: Journal) -> None:
        self._session = journal
        self.journal = journal

    async def record(self, *events: SessionEvent) -> None:
        """As `Journal.record`, but never a `WrongVersionError`."""
        try:
            await self.journal.record(*events)
        except WrongVersionError:
            await finished(self._fork())
            await self.journal.record(*events)

    async def note(self, *events: SessionEvent) -> None:
        """As `record`, for what is not worth a fork: after a first conflict it is dropped."""
        with contextlib.suppress(WrongVersionError):
            await self.journal.record(*events)

    def check(self) -> None:
        """Raise `AnswerKeptInForkError` if there was a conflict."""
        if self.journal is not self._session:
            raise AnswerKeptInForkError(self._session.session_id, self.journal.session_id)

    async def _fork(self) -> None:
        self.journal = await (await self._session.branch()).forked(reason=KEPT)
