"""A recording as lanes: the attempts of each session in order, each with the request's digest and what came back. Pure.

1. A lane is what is a session's own: a fork's begins behind what it shares with a parent of the same run. A fork of
   anything else is replayed from the beginning of its lineage, for a program starts from its beginning too.
2. What a recorder has not computed (live sessions keep no digests) is computed, from the same messages.
3. The other sessions of a run from which a run was forked, or to which it is due, are lanes that may be replayed and
   need not be.
4. What came first is told by places in the log, which compare in its order, and not by a clock, which may be set. Only
   an import, which writes session after session, leaves times as all there is (`in_log_order`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from session import jsontext
from session.events import RequestSent, ResponseInterrupted, ResponseReceived

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TIME_BYTES: Final = 8


class Exchange(msgspec.Struct, frozen=True):
    """One attempt: the request at *version*, whose own events begin behind *after*, and how it ended, at *ended*
    (None: it has not). Times are Unix milliseconds; *sent_place* and *ended_place* compare across lanes.
    """

    session_id: str
    number: int
    after: int
    version: int
    request: RequestSent
    digest: bytes
    model: str
    sent_at: int
    sent_place: bytes = b""
    end: ResponseReceived | ResponseInterrupted | None = None
    ended: int = 0
    ended_at: int = 0
    ended_place: bytes = b""
    blocks: tuple[bytes, ...] = ()
    usage: bytes = b""

    @property
    def place(self) -> str:
        """The address of the request."""
        return f"{self.session_id}@{self.version}"

    def content(self) -> Sequence[bytes]:
        """The blocks of the answer, if it was complete."""
        if not isinstance(self.end, ResponseReceived):
            return ()
        return self.blocks if self.end.content is None else jsontext.items(self.end.content)


class Known(msgspec.Struct, frozen=True):
    """What stands before a message thread that goes on: digests of tools and system, and of the messages so far, which
    are those of the session at *version*.
    """

    session_id: str
    version: int
    prompt: bytes
    chain: bytes


@dataclass
class Lane:
    """The attempts of one session. *required*: all of them must be made. *start* is the version they begin behind.

    The session *began* at this place of the log, because of what *cause* says, the address of an event, or as a fork of
    its *parent*.
    """

    session_id: str
    required: bool = True
    start: int = 0
    head: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    threads: dict[str, Known] = field(default_factory=dict)
    outcomes: dict[str, bytes] = field(default_factory=dict)  # tool_result blocks by tool_use id
    began: bytes = b""
    cause: str = ""
    parent: str = ""


def in_order(lanes: Iterable[Lane]) -> list[Exchange]:
    """All their attempts, those that were made first at the front."""
    return sorted((each for lane in lanes for each in lane.exchanges), key=lambda each: each.sent_place)


def in_log_order(run: Sequence[Lane]) -> bool:
    """Whether the log has *run*, its sessions in the order in which they began, as it was recorded: none stands before
    an earlier one, or behind what its cause did later. After an import both can be so.
    """
    began = [lane.began for lane in run if lane.began]
    lanes = {lane.session_id: lane for lane in run}
    return began == sorted(began) and not any(_is_late(lane, lanes) for lane in run)


def _is_late(lane: Lane, lanes: dict[str, Lane]) -> bool:
    """Whether what it is due to went on before it began."""
    session_id, _, version = lane.cause.rpartition("@")
    cause = lanes.get(session_id)
    if cause is None or not lane.began or not (version.isascii() and version.isdigit()):
        return False
    place = bisect_right(cause.exchanges, int(version), key=lambda each: each.version)
    return place < len(cause.exchanges) and cause.exchanges[place].sent_place < lane.began


def placed_by_time(lane: Lane) -> None:
    """Let times stand for the places of its attempts."""
    lane.exchanges = [
        msgspec.structs.replace(
            each,
            sent_place=place_of_time(each.sent_at),
            ended_place=place_of_time(each.ended_at) if each.ended else b"",
        )
        for each in lane.exchanges
    ]


def place_of_time(milliseconds: int) -> bytes:
    """A place that compares as the time does."""
    return max(0, milliseconds).to_bytes(_TIME_BYTES, "big")
