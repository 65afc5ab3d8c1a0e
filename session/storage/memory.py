"""Sessions in the memory of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.storage import document
from session.storage.base import check_session_id

if TYPE_CHECKING:
    import builtins

    from session.state import SessionState


class MemorySessionStorage:
    """Keeps sessions until the process ends: for tests, and for what may be lost.

    It keeps what a session file would (`session.storage.document`); `version` is not kept, the last writer wins. What
    goes in and what comes out are isolated copies: changing one changes nothing that is stored.
    """

    def __init__(self) -> None:
        self._states: dict[str, SessionState] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.size()} sessions>"

    async def save(self, state: SessionState, /) -> SessionState:
        """See `SessionStorage.save`. Raises `InvalidMetadataError` and `InvalidStateError`."""
        self._states[check_session_id(state.id)] = document.kept(state)
        return state

    async def load(self, session_id: str, /) -> SessionState | None:
        """See `SessionStorage.load`."""
        state = self._states.get(check_session_id(session_id))
        return None if state is None else document.kept(state)

    async def delete(self, session_id: str, /) -> None:
        """See `SessionStorage.delete`."""
        self._states.pop(check_session_id(session_id), None)

    async def list(self) -> builtins.list[str]:
        """See `SessionStorage.list`."""
        return list(self._states)

    def clear(self) -> None:
        """Forget every session."""
        self._states.clear()

    def size(self) -> int:
        """How many sessions there are."""
        return len(self._states)
