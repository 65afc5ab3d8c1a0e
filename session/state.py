"""What a conversation is, seen from one version of its session: a value, made by the fold or by hand.

`SessionState(id="...", messages=[{...}])` is enough to save one. What follows from other fields (`pending`, `status`,
`in_doubt`, `own_usage`) is computed from them, so it holds for a state from any storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from session.messages import Messages
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from session.messages import Message, RawMessage

Status: TypeAlias = Literal["idle", "waiting", "running", "closed"]
"""idle: nothing to answer; waiting: `pending` says for what; running: a request or a tool has begun and not ended (or
its process died: the log cannot tell); closed.
"""

PAUSES: frozenset[str] = frozenset({"pause_turn", "compaction"})
"""Stop reasons after which the same request goes on unchanged."""


class Pending(msgspec.Struct, frozen=True):
    """What is unanswered.

    request: `request_id` was sent and neither completed nor interrupted. tool_use: `tool_use_ids` have no result.
    cut_response: the last response was cut. pause_turn: the model paused. message: the newest message has no answer.
    """

    kind: Literal["request", "tool_use", "cut_response", "pause_turn", "message"]
    tool_use_ids: tuple[str, ...] = ()
    request_id: str = ""


class Prompt(msgspec.Struct, frozen=True):
    """What stands around the messages of a request, byte for byte as it was first sent; b"" was absent.

    `parameters` is a JSON object of everything else (max_tokens, thinking, ...).
    """

    model: str = ""
    system: bytes = b""
    tools: bytes = b""
    parameters: bytes = b""


class ReceivedBlock(msgspec.Struct, frozen=True, gc=False):
    """A finished content block of a response that is not complete. `tool_use_id` is "" for other than tool_use."""

    index: int
    block: bytes
    tool_use_id: str = ""


class UnfinishedResponse(msgspec.Struct, frozen=True):
    """A response that is not complete: running, or *cut*. Its blocks are not in `messages`."""

    request_id: str
    version: int
    blocks: tuple[ReceivedBlock, ...] = ()
    cut: bool = False


class ToolRun(msgspec.Struct, frozen=True, gc=False):
    """A tool that was started or has an outcome, its result not yet part of what was sent.

    `result` is the exact tool_result block; None: there is no outcome yet. `started_version` is 0 if no start was
    recorded.
    """

    tool_use_id: str
    name: str = ""
    started_version: int = 0
    result: bytes | None = None
    is_error: bool = False


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One ask of the user and everything up to the end of the answer: versions *first* to *last*, numbered from 1.

    `message_index` is the index of the ask among all messages there have been, those that compaction replaced
    included.
    """

    number: int
    first: int
    last: int
    began_at: int
    ended_at: int
    message_index: int


class Landmark(msgspec.Struct, frozen=True, gc=False):
    """The message that the API called *message_id* was complete, its usage recorded, at *version*."""

    message_id: str
    version: int


class SessionState(msgspec.Struct, frozen=True):
    """A session at one version. Times are Unix milliseconds, 0 where they are not known.

    `messages` may be given as a list of dicts or bytes. `version` is what `save` expects the stored session to be at.
    `inherited_usage` was used before the fork at version `forked_at`; `usage` includes it. The fields after
    `inherited_usage` are known to event-sourced storages only.
    """

    id: str
    messages: Messages = Messages()
    usage: Usage = Usage()
    metadata: dict[str, Any] = {}
    created_at: int = 0
    updated_at: int = 0
    parent_id: str | None = None
    version: int = 0
    forked_at: int = 0
    inherited_usage: Usage = Usage()
    prompt: Prompt = Prompt()
    responses: tuple[UnfinishedResponse, ...] = ()
    tools: tuple[ToolRun, ...] = ()
    results_open: bool = False  # the last message is a tool-result message that may still grow
    stop_reason: str | None = None  # of the last complete response
    turns: tuple[Turn, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    compacted: int = 0  # messages that compaction has taken away, net of the summaries that stand for them
    refused_turns: int = 0
    closed: bool = False
    unknown_events: int = 0

    def __post_init__(self) -> None:
        if type(self.messages) is not Messages:
            msgspec.structs.force_setattr(self, "messages", Messages(self.messages))

    @classmethod
    def new(
        cls,
        session_id: str,
        *,
        messages: Iterable[RawMessage] = (),
        now: int = 0,
        **fields: Any,  # noqa: ANN401 - any other field of the state
    ) -> Self:
        """A state created and updated at *now* (Unix milliseconds). Raises `InvalidMessageError` for a message that is
        no JSON.
        """
        return cls(id=session_id, messages=Messages(messages), created_at=now, updated_at=now, **fields)

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 - any field of the state
        """A state that differs in *changes*."""
        return msgspec.structs.replace(self, **changes)

    def adding(self, *messages: RawMessage) -> Self:
        """A state with *messages* behind its own, which keep their bytes. Raises `InvalidMessageError`."""
        return self.replace(messages=self.messages + messages)

    def __repr__(self) -> str:
        return f"<SessionState {self.id}: version {self.version}, {len(self.messages)} messages, {self.status}>"

    @property
    def own_usage(self) -> Usage:
        """What was used since the fork: summed over a tree of forks, it counts nothing twice."""
        return self.usage - self.inherited_usage

    @property
    def in_doubt(self) -> tuple[ToolRun, ...]:
        """Tools that were started and have no outcome, and outcomes that found no place in the messages."""
        growing = self.messages.entries[-1].tool_results if self.results_open else ()
        return tuple(run for run in self.tools if run.tool_use_id not in growing)

    @property
    def pending(self) -> Pending | None:
        """What is unanswered; None: nothing is."""
        ended = {run.tool_use_id for run in self.tools if run.result is not None}
        unanswered = tuple(id_ for id_ in unanswered_tool_uses(self.messages.entries) if id_ not in ended)
        return pending_of(self.messages.entries[-1:], unanswered, self.responses)

    @property
    def status(self) -> Status:
        """See `Status`."""
        return status_of(self.pending, self.tools, closed=self.closed)


def pending_of(
    newest: tuple[Message, ...], unanswered: tuple[str, ...], responses: tuple[UnfinishedResponse, ...]
) -> Pending | None:
    """What is unanswered, given the newest message (none: an empty tuple)."""
    running = [response for response in responses if not response.cut]
    if running:
        return Pending("request", request_id=running[-1].request_id)
    if unanswered:
        return Pending("tool_use", unanswered)
    if responses:
        return Pending("cut_response", request_id=responses[-1].request_id)
    if not newest:
        return None
    if newest[-1].role == "assistant":
        return Pending("pause_turn") if newest[-1].stop_reason in PAUSES else None
    return Pending("message")


def status_of(pending: Pending | None, tools: tuple[ToolRun, ...], *, closed: bool) -> Status:
    """See `Status`."""
    if closed:
        return "closed"
    if pending and pending.kind == "request":
        return "running"
    if pending and any(run.result is None and run.tool_use_id in pending.tool_use_ids for run in tools):
        return "running"
    return "waiting" if pending else "idle"


def unanswered_tool_uses(entries: tuple[Message, ...]) -> tuple[str, ...]:
    """The tool_uses of the newest assistant message that no later message answers, in order."""
    answered: set[str] = set()
    for entry in reversed(entries):
        if entry.role == "assistant":
            return tuple(id_ for id_ in entry.tool_uses if id_ not in answered)
        answered.update(entry.tool_results)
    return ()
