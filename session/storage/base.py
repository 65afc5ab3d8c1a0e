"""What a storage is, and what may name a session."""

from __future__ import annotations

import re
import secrets
import string
from typing import TYPE_CHECKING, Final, Protocol

from session.errors import InvalidSessionIdError

if TYPE_CHECKING:
    import builtins

    from session.state import SessionState

MAX_ID_CHARACTERS: Final = 128

_ALPHABET: Final = string.ascii_letters + string.digits
_RANDOM_CHARACTERS: Final = 16
_ALLOWED: Final = re.compile(r"[A-Za-z0-9._-]+")
_WINDOWS_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


class SessionStorage(Protocol):
    """Where sessions are kept. Any object with these four methods is one.

    Every method raises `InvalidSessionIdError` for an id that `check_session_id` refuses, and `StorageUnavailableError`
    if the storage cannot be reached.
    """

    async def save(self, state: SessionState, /) -> SessionState | None:
        """Keep *state* under its id; when this returns, `load` gives it.

        A storage that keeps versions returns the state as it is stored now, which is the one to go on from, and raises
        `WrongVersionError` if `state.version` is no longer the stored one's. In the others the last writer wins; they
        may return *state* itself, or nothing.

        Raises `InvalidStateError` and `InvalidMetadataError`, nothing written, for what `load` could not give back
        (`session.saving.check_state`).
        """
        ...

    async def load(self, session_id: str, /) -> SessionState | None:
        """The state that was saved; None if there is none. Changing it changes nothing that is stored."""
        ...

    async def delete(self, session_id: str, /) -> None:
        """Forget the session. Nothing happens if there is none."""
        ...

    async def list(self) -> builtins.list[str]:
        """The ids of all sessions, each once, in no particular order."""
        ...


def check_session_id(session_id: str) -> str:
    """*session_id*, if it is one: 1 to 128 of `A-Z a-z 0-9 . _ -`, no dot at either end, no name of a Windows device
    (`CON`, `nul.txt`). So it is a safe name of a file anywhere. Raises `InvalidSessionIdError`.
    """
    if not isinstance(session_id, str):
        raise InvalidSessionIdError(session_id, "it is not a string")
    if not session_id:
        raise InvalidSessionIdError(session_id, "it is empty")
    if len(session_id) > MAX_ID_CHARACTERS:
        raise InvalidSessionIdError(session_id, f"longer than {MAX_ID_CHARACTERS} characters")
    if not _ALLOWED.fullmatch(session_id):
        raise InvalidSessionIdError(session_id, "only A-Z, a-z, 0-9 and . _ - are allowed")
    if session_id.startswith(".") or session_id.endswith("."):
        raise InvalidSessionIdError(session_id, "it begins or ends with a dot")
    if _WINDOWS_DEVICE.fullmatch(session_id):
        raise InvalidSessionIdError(session_id, "it is the name of a Windows device")
    return session_id


def is_session_id(name: str) -> bool:
    """Whether `check_session_id` takes *name*."""
    try:
        check_session_id(name)
    except InvalidSessionIdError:
        return False
    return True


def new_session_id() -> str:
    """A new id: `sess_` and 16 random letters and digits (95 bits)."""
    return "sess_" + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
