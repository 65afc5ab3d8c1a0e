"""Conversations written as JSON: read from it, and kept as sessions.

A conversation is an object with `messages`, or the array of the messages alone; a message is an object with a role,
or what `session.storage.document` puts in the place of one that no parser takes. Beside them may stand `id`, `model`,
`system`, `tools`, `metadata` and whatever else the Messages API takes; what nobody here knows becomes metadata. Every
message keeps its exact bytes.

1. A conversation without an id that can name a session gets one made of its content: the same each time.
2. A session that is there is never changed but by what the file has beyond it. Another conversation under its id is
   left out, and said.
3. A new session is one commit (above `COMMIT_EVENTS` events several, in the order of the conversation), so an import
   that was interrupted is run again and goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import string
from typing import TYPE_CHECKING, Final

import msgspec

from session import jsontext
from session.errors import (
    EventDataError,
    InvalidMessageError,
    InvalidMetadataError,
    SessionDeletedError,
    SessionExistsError,
    UnreadableJsonError,
)
from session.events import Meta, SessionCreated
from session.messages import Message, Messages
from session.request import revised
from session.saving import common_prefix, plan_save
from session.state import Prompt, SessionState
from session.storage import WrongVersionError
from session.storage.base import is_session_id
from session.storage.document import unspliced
from session.storage.records import EventTooLargeError
from session.transfer.report import Imported, RefusedError
from session.transfer.source import check_nesting, members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from session.events import AnyEvent
    from session.storage.blocking import BlockingEventSessionStorage

COMMIT_EVENTS: Final = 50_000
IMPORTED: Final = "import"
"""The origin of a session that came from elsewhere."""

_KNOWN: Final = frozenset({"id", "model", "system", "tools", "messages", "metadata", "stream", "parameters"})
_PARAMETERS: Final = frozenset({
    "betas", "cache_control", "container", "context_management", "inference_geo", "max_tokens", "mcp_servers",
    "output_config", "output_format", "service_tier", "speed", "stop_sequences", "temperature", "thinking",
    "tool_choice", "top_k", "top_p",
})  # fmt: skip
_ALPHABET: Final = string.ascii_letters + string.digits
_ID_CHARACTERS: Final = 16
_ATTEMPTS: Final = 3


class Target:
    """Where an importer puts what it reads: a *storage*, and whom to tell of the *progress*, in bytes and of how many.

    *actor* stands with every event.
    """

    def __init__(
        self,
        storage: BlockingEventSessionStorage,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        *,
        actor: str = "import",
    ) -> None:
        self.storage: Final = storage
        self.progress = progress
        self.meta: Final = Meta(actor=actor)


class ForkPoint(msgspec.Struct, frozen=True):
    """A new session is to be a fork of *parent_id* at version *at*, where the state is *state*."""

    parent_id: str
    at: int
    state: SessionState


def parse_conversation(text: bytes, *, session_id: str | None = None) -> SessionState:
    """The conversation in the JSON *text*; its id is *session_id*, or its own, or made of its content.

    Raises `RefusedError` for what is no conversation, or nests too deep.
    """
    try:
        if text.lstrip()[:1] == b"[":
            check_nesting(text)
            return _of_members({"messages": text}, session_id)
        return _of_members(members(text), session_id)
    except UnreadableJsonError as error:
        raise RefusedError("not_a_conversation", error.reason[:200]) from error


def keep(target: Target, state: SessionState, source: str, fork: ForkPoint | None = None) -> Imported:
    """Make *state* a session, or bring the one of its id up to it. Raises `RefusedError`, nothing written.

    If somebody else writes the session meanwhile (another import of the same file), it looks again.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(WrongVersionError, SessionExistsError):
            return _keep(target, state, source, fork)
    return _keep(target, state, source, fork)


def _keep(target: Target, state: SessionState, source: str, fork: ForkPoint | None) -> Imported:
    try:
        stored = target.storage.load(state.id)
        if stored is None:
            version = _begin(target, state, fork)
            return Imported(state.id, "new", source, version, fork.parent_id if fork else state.parent_id)
        events = _plan_extension(stored, state)
        version = _append(target, state.id, stored.version, events) if events else stored.version
    except SessionDeletedError as error:
        raise RefusedError("deleted", state.id) from error
    except (InvalidMessageError, InvalidMetadataError) as error:
        raise RefusedError("not_a_conversation", error.reason) from error
    except EventDataError as error:
        raise RefusedError("taken", f"{state.id}, which cannot be read: {error}") from error
    except EventTooLargeError as error:
        raise RefusedError("too_long", str(error)) from error
    return Imported(state.id, "extended" if events else "unchanged", source, version, stored.parent_id)


# --- reading ----------------------------------------------------------------------------------------------------------


def _of_members(given: Mapping[str, bytes], session_id: str | None) -> SessionState:
    if "messages" not in given:
        raise RefusedError("not_a_conversation", "it has no messages")
    messages = Messages.of(_messages(given["messages"]))
    prompt = _prompt(given)
    metadata = _metadata(given)
    named = jsontext.string(given.get("id", b""))
    chosen = session_id or named
    if chosen is None or not is_session_id(chosen):
        if named:
            metadata.setdefault("imported_id", named)
        chosen = _made_id(prompt, messages)
    return SessionState(id=chosen, messages=messages, metadata=metadata, prompt=prompt)


def _messages(raw: bytes) -> Iterator[Message]:
    try:
        items = jsontext.items(raw)
    except UnreadableJsonError as error:
        raise RefusedError("not_a_conversation", "its messages are no array") from error
    for number, item in enumerate(items, 1):
        message = Message.of(unspliced(item))
        if not message.role and message.raw is item:
            raise RefusedError("not_a_conversation", f"message {number} has no role")
        yield message


def _prompt(given: Mapping[str, bytes]) -> Prompt:
    model = jsontext.string(given.get("model", b'""'))
    if model is None:
        raise RefusedError("not_a_conversation", "its model is no string")
    parameters = {name: value for name, value in given.items() if name in _PARAMETERS}
    parameters |= _object(given, "parameters")
    spliced = b",".join(jsontext.encode(name) + b":" + value for name, value in parameters.items())
    old = Prompt(parameters=b"{" + spliced + b"}" if parameters else b"")
    return revised(old, model=model, system=given.get("system", b"null"), tools=given.get("tools", b"null"))


def _metadata(given: Mapping[str, bytes]) -> dict[str, object]:
    found = {name: value for name, value in given.items() if name not in _KNOWN | _PARAMETERS}
    found |= _object(given, "metadata")
    return {name: jsontext.parse_or_show(value) for name, value in found.items()}


def _object(given: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    raw = given.get(name, b"null")
    if raw == b"null":
        return {}
    try:
        return jsontext.members(raw)
    except UnreadableJsonError as error:
        raise RefusedError("not_a_conversation", f"its {name} is no object") from error


def _made_id(prompt: Prompt, messages: Messages) -> str:
    """An id like a random one, made of the content."""
    hashed = hashlib.sha256(b"refold import")
    for part in (prompt.model.encode("utf-8", "backslashreplace"), prompt.system, prompt.tools, prompt.parameters):
        hashed.update(len(part).to_bytes(8, "big") + part)
    for raw in messages.raw:
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    number, characters = int.from_bytes(hashed.digest(), "big"), ""
    for _ in range(_ID_CHARACTERS):
        number, place = divmod(number, len(_ALPHABET))
        characters += _ALPHABET[place]
    return f"sess_{characters}"


# --- keeping ----------------------------------------------------------------------------------------------------------


def _begin(target: Target, state: SessionState, fork: ForkPoint | None) -> int:
    """Write a new session; return its version."""
    born = SessionCreated(state.id, state.created_at, state.parent_id or "", origin=IMPORTED)
    if fork is None:
        events = [born, *plan_save(SessionState(id=state.id), state)]
        return _append(target, state.id, 0, events)
    target.storage.fork(fork.parent_id, state.id, at=fork.at, reason=IMPORTED, meta=target.meta)
    events = [born, *plan_save(fork.state, state)]  # `born` keeps when it was created
    return _append(target, state.id, fork.at + 1, events)


def _plan_extension(stored: SessionState, state: SessionState) -> Sequence[AnyEvent]:
    """What the file has beyond the session; its metadata, which a person may have changed, stay."""
    common = common_prefix(stored.messages.entries, state.messages.entries)
    if common < min(len(stored.messages), len(state.messages)):
        raise RefusedError("taken", f"{state.id}, from message {common + 1} on")
    if len(state.messages) > len(stored.messages):
        return plan_save(stored, state.replace(metadata={**state.metadata, **stored.metadata}))
    if stored.parent_id and stored.version == stored.forked_at + 1:  # an import that ended right behind the fork
        born = SessionCreated(state.id, state.created_at, stored.parent_id, origin=IMPORTED)
        return [born, *plan_save(stored, state)]
    return []


def _append(target: Target, session_id: str, version: int, events: Sequence[AnyEvent]) -> int:
    """Append *events* behind *version*. The last one, the usage, never comes alone: it says that all is there."""
    starts = list(range(0, len(events) - 1, COMMIT_EVENTS)) or [0]
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        part = events[start:end]
        version = target.storage.append(session_id, part, expected=version, meta=target.meta).version
    return version
