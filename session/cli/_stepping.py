"""A session seen event by event: what each one changed. What comes out is not yet made visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from session.cli._content import preview
from session.cli._events import outline
from session.events import RequestSent
from session.fold import Fold
from session.places import HEAD
from session.request import build_body
from session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import AnyEvent, StoredEvent
    from session.storage.blocking import BlockingEventSessionStorage

_PARTS: Final = ("model", "system", "tools", "parameters")
_COUNTERS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Moment:
    """A session behind one event (None: before the first), and as it was before that."""

    def __init__(self, stored: StoredEvent | None, state: SessionState, before: SessionState) -> None:
        self.stored = stored
        self.state = state
        self.before = before

    @property
    def version(self) -> int:
        """How many events there are."""
        return self.stored.version if self.stored else 0

    @property
    def what(self) -> str:
        """What happened, in a few words."""
        return outline(self.stored.event) if self.stored else ""

    @property
    def changed(self) -> list[str]:
        """What is other than before."""
        return list(_changes(self.before, self.state))

    @property
    def request(self) -> bytes:
        """The exact body that the session would send here; where a request was sent, that one."""
        event: AnyEvent | None = self.stored.event if self.stored else None
        raw = self.state.messages.raw
        if isinstance(event, RequestSent):
            return build_body(self.state.prompt, raw[: event.messages], stream=event.stream)
        return build_body(self.state.prompt, raw, stream=False)


class Stepper:
    """A session to walk through: `version` is where one stands."""

    def __init__(self, store: BlockingEventSessionStorage, session_id: str) -> None:
        self._store = store
        self.session_id = session_id
        newest = store.state_at(session_id, HEAD)
        self.head = newest.version
        self._ends = [turn.last for turn in newest.turns] or [self.head]
        self.version = 0

    def moment(self) -> Moment:
        """What there is where one stands."""
        if not self.version:
            nothing = SessionState(id=self.session_id)
            return Moment(None, nothing, nothing)
        before = self._store.state_at(self.session_id, self.version - 1)
        (stored,) = self._store.events(self.session_id, after=self.version - 1, upto=self.version)
        fold = Fold(before)
        fold.add(stored.event, stored.recorded_at)
        return Moment(stored, fold.state(), before)

    def move(self, events: int) -> bool:
        """Go so many events on, or back; False: there are none."""
        wanted = min(max(self.version + events, 0), self.head)
        moved, self.version = wanted != self.version, wanted
        return moved

    def move_turn(self, *, forwards: bool) -> bool:
        """Go to the end of the next turn, or of the one before; False: there is none."""
        if forwards:
            wanted = next((end for end in self._ends if end > self.version), self.head)
        else:
            wanted = next((end for end in reversed(self._ends) if end < self.version), 0)
        moved, self.version = wanted != self.version, wanted
        return moved

    def moments(self) -> Iterator[Moment]:
        """Each event behind where one stands, to the last; one pass."""
        before = self.moment().state
        fold = Fold(before)
        for stored in self._store.events(self.session_id, after=self.version):
            fold.add(stored.event, stored.recorded_at)
            state = fold.state()
            yield Moment(stored, state, before)
            before = state


def _changes(before: SessionState, after: SessionState) -> Iterator[str]:
    yield from _message_changes(before, after)
    for name in ("status", "stop_reason"):
        yield from _change(name, getattr(before, name), getattr(after, name))
    pending = [state.pending.kind if state.pending else None for state in (before, after)]
    yield from _change("pending", *pending)
    for name in _PARTS:
        one, other = getattr(before.prompt, name), getattr(after.prompt, name)
        shown = [value if isinstance(value, str) else f"{len(value):,} bytes" for value in (one, other)]
        if one != other:
            yield f"{name}: {shown[0] or 'none'} -> {shown[1] or 'none'}"
    yield from _usage_changes(before, after)
    yield from _change("unfinished blocks", _blocks(before), _blocks(after))
    yield from _change("tools in doubt", len(before.in_doubt), len(after.in_doubt))
    yield from _change("turns", len(before.turns), len(after.turns))
    if before.metadata != after.metadata:
        yield f"metadata: {', '.join(sorted(after.metadata)) or 'none'}"


def _message_changes(before: SessionState, after: SessionState) -> Iterator[str]:
    one, other = before.messages.entries, after.messages.entries
    if one == other:
        return
    newest = f": {other[-1].role} {preview(other[-1].parsed())}" if other else ""
    yield f"messages: {len(one)} -> {len(other)}{newest}"


def _usage_changes(before: SessionState, after: SessionState) -> Iterator[str]:
    used = (after.usage - before.usage).to_dict()
    for name in _COUNTERS:
        added = used.get(name)
        if isinstance(added, int) and added:
            yield f"{name}: {added:+,}"
    cost = after.usage.total_cost_usd - before.usage.total_cost_usd
    if cost:
        yield f"cost: {cost:+.6f} dollars"


def _blocks(state: SessionState) -> int:
    return sum(len(response.blocks) for response in state.responses)


def _change(name: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{name}: {before if before is not None else 'none'} -> {after if after is not None else 'none'}"
