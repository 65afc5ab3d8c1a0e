"""The newest messages, without the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import assume, given
from hypothesis import strategies as st

from eventstore import BlockingLmdbEventLog
from session.cli import run
from session.events import HistoryRewound, MessageAppended, SessionForked, UnknownEvent, stored
from session.fold import fold
from session.recent import messages_in_window
from session.storage.blocking import BlockingEventSessionStorage
from tests.session.cli.cli_kit import append, turn
from tests.session.histories import histories

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pytest

    from session.events import AnyEvent


@given(histories, st.integers(0, 30))
def test_a_window_tells_the_end_of_the_messages_or_nothing(history: list[AnyEvent], cut: int) -> None:
    """Calls of one id in several messages are left out: the API makes distinct ones."""
    history = [event for event in history if not isinstance(event, SessionForked)]
    events = stored(history)
    ids = [id_ for message in fold(events).messages.entries for id_ in message.tool_uses]
    assume(len(ids) == len(set(ids)))
    whole = fold(events).messages.entries
    found = messages_in_window(events[min(cut, len(events)) :])
    if found is not None and not _outcomes_before(history, cut):
        assert tuple(found) == whole[len(whole) - len(found) :]


def _outcomes_before(history: list[AnyEvent], cut: int) -> bool:
    """Whether a tool's outcome was recorded before the window, of a call in it."""
    early = {getattr(event, "tool_use_id", None) for event in history[:cut]} - {None, ""}
    early |= {result.tool_use_id for event in history[:cut] for result in getattr(event, "results", ())}
    later = str(stored(history[cut:]))
    return any(f"'{id_}'" in later or f'"{id_}"' in later for id_ in early)


def test_the_newest_messages_are_those_of_the_whole_history(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as store:
        for number in range(1, 60):
            append(store, "sess_a", *turn(number, tools=("bash",) if number % 7 == 0 else ()))
        for count in (1, 2, 19, 20, 100, 127, 500):
            whole = store.state_at("sess_a", "-0").messages.entries
            newest = store.newest_messages("sess_a", count)
            assert newest.messages == whole[-count:]
            assert newest.first == max(0, len(whole) - count)
            assert newest.version == store.version_at("sess_a", "-0")


def test_a_rewind_among_the_newest_events_is_respected(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as store:
        for number in range(1, 30):
            append(store, "sess_a", *turn(number))
        append(store, "sess_a", HistoryRewound(4), MessageAppended.of({"role": "user", "content": "once more"}))
        newest = store.newest_messages("sess_a", 3)
        assert [message["content"] for message in map(dict, (m.parsed() for m in newest.messages))][-1] == "once more"
        assert newest.first == 2


def test_little_is_read_of_a_long_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as store:
        for number in range(1, 400):
            append(store, "sess_a", *turn(number))
        read = list[int]()
        pages = BlockingLmdbEventLog._pages  # every way to read

        def counted(log: BlockingLmdbEventLog, *args: Any, **options: Any) -> Iterator[Sequence[object]]:
            for page in pages(log, *args, **options):
                read.append(len(page))
                yield page

        monkeypatch.setattr(BlockingLmdbEventLog, "_pages", counted)
        assert len(store.newest_messages("sess_a", 20).messages) == 20
        assert sum(read) < 200
    read.clear()
    for arguments in (["rename", "sess_a", "a title"], ["tag", "sess_a", "one", "two"]):
        assert run(["--store", str(tmp_path / "store"), *arguments]) == 0
    with BlockingEventSessionStorage(tmp_path / "store") as store:
        found = store.summary("sess_a")
        assert (found.title, found.tags) == ("a title", ("one", "two"))
        assert sum(read) < 200
        store.state_at("sess_a", "-0")
        assert sum(read) > 400, "a fold of the whole history would be noticed"


def test_a_session_of_other_events_only_has_no_messages(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as store:
        append(store, "sess_a", *(UnknownEvent("later", b"x") for _ in range(300)))
        assert store.newest_messages("sess_a", 5).messages == ()
