"""What can happen to a session: a closed union of events, each a fact in the past tense.

1. `type` is what is stored with an event and never changes; a class or its place may be renamed.
2. A field once released keeps its name and meaning; new ones come with a default.
3. Bytes fields hold what others wrote, exactly. They are never parsed and written again.
4. Each message is stored once: blocks that were received are not repeated by the event that completes their response,
   results of tools are not repeated in a message.

An event type that this version does not know is an `UnknownEvent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from session.messages import Message, RawMessage

if TYPE_CHECKING:
    from collections.abc import Iterable


class SessionCreated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A session began, at *created_at* (Unix milliseconds; 0: when this was recorded).

    *cause* is the place that led to it (a sub-agent's caller, a compacted session), *origin* who keeps it: "live",
    "recorder", "import", "save".
    """

    type: ClassVar[str] = "session_created"
    session_id: str
    created_at: int = 0
    parent_id: str = ""
    cause: str = ""
    origin: str = ""


class SessionForked(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The session began as a fork of *parent_id* at its version *at*. The first own event of every fork."""

    type: ClassVar[str] = "session_forked"
    session_id: str
    parent_id: str
    at: int
    reason: str = ""


class MessageAppended(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A whole message was said: an ask, or any message of a conversation that was recorded elsewhere.

    *said_at* (Unix milliseconds) is given where it is not when it was recorded.
    """

    type: ClassVar[str] = "message_appended"
    message: Message
    message_id: str = ""
    said_at: int = 0

    @classmethod
    def of(cls, message: RawMessage, *, message_id: str = "", said_at: int = 0) -> MessageAppended:
        """From the bytes of a message (kept exactly) or a dict. Raises `InvalidMessageError`."""
        return cls(Message.of(message), message_id=message_id, said_at=said_at)


class RequestSent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The first *messages* messages of the session were about to be sent, with its prompt.

    Every attempt of one logical call has the same *request_id*. *parameters* is a JSON object of what this request has
    otherwise than the prompt, *headers* one of the few that say what the body means (betas); *digest* identifies the
    request.
    """

    type: ClassVar[str] = "request_sent"
    request_id: str
    messages: int
    attempt: int = 1
    stream: bool = False
    digest: bytes = b""
    parameters: bytes = b""
    path: str = ""
    headers: bytes = b""


class BlockReceived(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A content block of a running response was finished. *tool_use_id* is "" for other than tool_use blocks."""

    type: ClassVar[str] = "block_received"
    request_id: str
    index: int
    block: bytes
    tool_use_id: str = ""


class ResponseReceived(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The response is complete. Without this event there is no message.

    Either *content* is the exact text of its content array, with the ids of its *tool_uses*; or *blocks* is the number
    of blocks that were received before, which the fold joins. *rest* is a JSON object of what else the message had.
    *chunks* is the recorder's account of when which part arrived.
    """

    type: ClassVar[str] = "response_received"
    request_id: str
    message_id: str = ""
    model: str = ""
    stop_reason: str | None = None
    content: bytes | None = None
    tool_uses: tuple[str, ...] = ()
    blocks: int = 0
    rest: bytes = b""
    status: int = 200
    headers: bytes = b""
    duration_ms: int = 0
    chunks: bytes = b""


class ResponseInterrupted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The response ended without being complete, and stays out of the messages.

    *reason*: "cut", "error", "cancelled", or "lost" (found open by a later process). *error* is the body or event that
    said so, *partial* what there was of an unfinished block.
    """

    type: ClassVar[str] = "response_interrupted"
    request_id: str
    reason: str
    status: int = 0
    error: bytes = b""
    partial: bytes = b""
    headers: bytes = b""
    duration_ms: int = 0
    chunks: bytes = b""


class ToolStarted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A tool is about to run; *asked*: `can_use_tool` was asked, and allowed it."""

    type: ClassVar[str] = "tool_started"
    tool_use_id: str
    name: str = ""
    asked: bool = False


class ToolReturned(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A tool has ended; *result* is its tool_result block as it will be sent."""

    type: ClassVar[str] = "tool_returned"
    tool_use_id: str
    result: bytes
    is_error: bool = False
    duration_ms: int = 0


class ToolRefused(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A tool was not allowed to run; *result* is the tool_result block that says so."""

    type: ClassVar[str] = "tool_refused"
    tool_use_id: str
    result: bytes
    reason: str = ""


class UsageRecorded(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a response used: the API's raw *usage*, and its cost by the price table *prices* (None: no known price).

    A correction may hold negative counters, and in *unpriced* how many unpriced responses it adds to the count.
    Recorded in the commit of its response and before it, so that the message's version includes its usage.
    """

    type: ClassVar[str] = "usage_recorded"
    usage: bytes
    model: str = ""
    tier: str = ""
    cost_picodollars: int | None = None
    prices: str = ""
    request_id: str = ""
    unpriced: int = 0


class MetadataUpdated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The members of the JSON object *values* were set, the keys in the JSON array *removed* taken away."""

    type: ClassVar[str] = "metadata_updated"
    values: bytes = b"{}"
    removed: bytes = b"[]"


class PromptChanged(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What stands around the messages was changed: the fields that are set here. b"" and "" mean absent."""

    type: ClassVar[str] = "prompt_changed"
    model: str | UnsetType = UNSET
    system: bytes | UnsetType = UNSET
    tools: bytes | UnsetType = UNSET
    parameters: bytes | UnsetType = UNSET


class HistoryRewound(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Only the first *messages* messages still hold; what came after them was set aside, running responses too.

    A number of messages, not a version: so a rewind can be undone or repeated, and the fold needs no past states.
    """

    type: ClassVar[str] = "history_rewound"
    messages: int
    reason: str = ""


class HistoryCompacted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The *summary* stands for the first *messages* messages from now on. The originals stay in the log."""

    type: ClassVar[str] = "history_compacted"
    messages: int
    summary: tuple[Message, ...] = ()
    reason: str = ""


class RepairedResult(msgspec.Struct, frozen=True, gc=False):
    """The tool_result block that repair gave a tool_use without one."""

    tool_use_id: str
    result: bytes


class SessionRepaired(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What repair found (*problems*, by name) and added."""

    type: ClassVar[str] = "session_repaired"
    problems: tuple[str, ...] = ()
    results: tuple[RepairedResult, ...] = ()


class SourceRecorded(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Bytes *offset* to *offset* + *size* of *file*, which this session was imported from, were taken in: the evidence.

    *data* are these bytes, compressed with zlib. *digest* is the sha256 of the file from its beginning to here, *ended*
    whether this was all there was of it. Where *size* is 0, all of that has been made into events; *modified_ns* (Unix
    nanoseconds) and *file_size* are the file's. *importer* and its *revision* say how the events were made.
    """

    type: ClassVar[str] = "source_recorded"
    importer: str
    revision: int
    file: str
    offset: int
    size: int
    data: bytes = b""
    digest: bytes = b""
    ended: bool = False
    modified_ns: int = 0
    file_size: int = 0


class SessionClosed(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The session was closed; the next message or request opens it again."""

    type: ClassVar[str] = "session_closed"
    reason: str = ""


class UnknownEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a type that this version does not know, with its data as it is stored."""

    type: str
    data: bytes


SessionEvent: TypeAlias = (
    MessageAppended
    | BlockReceived
    | ResponseReceived
    | UsageRecorded
    | RequestSent
    | ToolStarted
    | ToolReturned
    | ToolRefused
    | ResponseInterrupted
    | MetadataUpdated
    | PromptChanged
    | HistoryRewound
    | HistoryCompacted
    | SessionRepaired
    | SessionCreated
    | SessionForked
    | SessionClosed
    | SourceRecorded
)
"""Every event that this version writes."""

AnyEvent: TypeAlias = SessionEvent | UnknownEvent
"""Every event that can be read."""

EVENT_CLASSES: Final[dict[str, type[SessionEvent]]] = {
    event.type: event
    for event in (
        SessionCreated,
        SessionForked,
        MessageAppended,
        RequestSent,
        BlockReceived,
        ResponseReceived,
        ResponseInterrupted,
        ToolStarted,
        ToolReturned,
        ToolRefused,
        UsageRecorded,
        MetadataUpdated,
        PromptChanged,
        HistoryRewound,
        HistoryCompacted,
        SessionRepaired,
        SessionClosed,
        SourceRecorded,
    )
}


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did it, in what context, and because of what. *more* is the program's own."""

    actor: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    more: dict[str, str] = {}


NO_META: Final = Meta()


class StoredEvent(msgspec.Struct, frozen=True):
    """An event in its place: *version* in the session, *recorded_at* (Unix milliseconds), and the log's *digest*.

    *position* is its place in the whole log, opaque; those of one log compare as its events follow on each other,
    across sessions, whatever the clock said.
    """

    version: int
    recorded_at: int
    event: AnyEvent
    meta: Meta = NO_META
    digest: bytes = b""
    position: bytes = b""

    @property
    def type(self) -> str:
        """The stored type of the event."""
        return self.event.type


def stored(events: Iterable[AnyEvent], *, after: int = 0, recorded_at: int = 0) -> list[StoredEvent]:
    """*events* as if appended behind version *after* at *recorded_at*: what a storage will read back."""
    return [StoredEvent(after + 1 + place, recorded_at, event) for place, event in enumerate(events)]
