"""Sessions as events: forks, deleted parents, hostile content, and files that were changed, cut or interrupted."""

from __future__ import annotations

import json
import random
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.verify import verify
from session.errors import SessionDeletedError, SessionNotFoundError
from session.events import MessageAppended, Meta, SessionCreated, UnknownEvent
from session.places import HEAD
from session.storage.records import Event
from session.transfer.event_lines import export_events, import_events
from session.transfer.importing import Target
from session.transfer.source import Source
from tests.session.histories import histories
from tests.session.transfer.stores import exported, heads, imported, store

if TYPE_CHECKING:
    from session.storage import BlockingEventSessionStorage


def said(text: str) -> MessageAppended:
    return MessageAppended.of({"role": "user", "content": text})


def family(opened: BlockingEventSessionStorage) -> None:
    """A root of 7 events, forks of forks, one that shares nothing, one whose parent was deleted."""
    opened.append("root", [SessionCreated("root"), *map(said, "abcdef")], expected=0, meta=Meta(actor="ann"))
    opened.fork("root", "child", at=5, reason="another way")
    opened.append("child", [said("x"), said("y")])
    opened.fork("child", "grandchild", at=7)
    opened.append("grandchild", [UnknownEvent("later", b"\x00\xff")])
    opened.fork("root", "apart", at=0)
    opened.fork("root", "empty", at=HEAD)


@pytest.mark.parametrize(
    "chosen", [None, ["grandchild"], ["empty", "apart"], ["child", "root"], ["grandchild", "root"]]
)
def test_forks_come_behind_their_parents_and_what_is_shared_stands_once(
    chosen: list[str] | None, tmp_path: Path
) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        text = exported(first, chosen)
        records = [json.loads(line) for line in text.splitlines()]
        events = [(record["stream"], record["version"]) for record in records if record["record"] == "event"]
        assert len(events) == len(set(events))
        known = {"root"}
        for record in records:
            if record["record"] == "forked":
                assert record["parent"] in known
                known.add(record["stream"])
        (tmp_path / "export.jsonl").write_bytes(text)
        assert imported(second, tmp_path / "export.jsonl").whole
        for name in chosen or first.list():
            assert heads(second)[name] == heads(first)[name]
            assert second.state_at(name, HEAD).parent_id == first.state_at(name, HEAD).parent_id
        assert verify(tmp_path / "b").problems == []


def test_a_fork_outlives_its_deleted_parents_on_its_way(tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        first.delete("child")
        first.delete("root")
        (tmp_path / "export.jsonl").write_bytes(exported(first))
        assert imported(second, tmp_path / "export.jsonl").whole
        assert imported(second, tmp_path / "export.jsonl").imported.keys() == {"unchanged"}
        assert {name: heads(second)[name] for name in first.list()} == heads(first)
        assert verify(tmp_path / "b").problems == []


def test_an_export_names_what_it_cannot_find(tmp_path: Path) -> None:
    with store(tmp_path / "a") as opened:
        family(opened)
        opened.delete("empty")
        with pytest.raises(SessionNotFoundError):
            exported(opened, ["root", "nobody"])
        with pytest.raises(SessionDeletedError):
            exported(opened, ["empty"])


hostile = st.binary(max_size=60) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))


@settings(max_examples=25)
@given(histories, st.lists(hostile, max_size=4), st.integers(0, 30), histories)
def test_whatever_a_session_holds_comes_back_with_equal_digests(
    history: list[Any], messages: list[bytes], at: int, forked: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with store(path / "a") as first, store(path / "b") as second:
            events = [SessionCreated("s"), *history, *map(MessageAppended.of, messages)]
            first.append("s", events, expected=0, meta=Meta(actor="\ud800\x1b", more={"\u202e": "x"}))
            first.fork("s", "t", at=min(at, len(events)))
            first.append("t", forked) if forked else None
            (path / "export.jsonl").write_bytes(exported(first))
            assert imported(second, path / "export.jsonl").whole
            assert heads(second) == heads(first)
            for before, now in zip(first.events("t"), second.events("t"), strict=True):
                assert replace(now, position=before.position) == before


def test_a_changed_event_is_refused_with_all_that_follows_from_it_and_the_rest_comes_in(tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        first.append("other", [SessionCreated("other"), said("untouched")], expected=0)
        whole = exported(first)
        records = [json.loads(line) for line in whole.splitlines()]
        place = next(
            n for n, record in enumerate(records) if (record.get("stream"), record.get("version")) == ("child", 8)
        )
        records[place]["time_ns"] += 1
        (tmp_path / "changed.jsonl").write_text("\n".join(map(json.dumps, records)))
        report = imported(second, tmp_path / "changed.jsonl")
        assert {skipped.reason for skipped in report.first_skipped} == {"altered"}
        assert sum(report.skipped.values()) == 2  # the child, and its own child
        assert heads(second) == {
            name: head for name, head in heads(first).items() if name not in ("child", "grandchild")
        }
        (tmp_path / "whole.jsonl").write_bytes(whole)
        assert imported(second, tmp_path / "whole.jsonl").whole
        assert heads(second) == heads(first)


@pytest.mark.parametrize("seed", range(3))
def test_an_export_that_was_cut_is_said_to_be_and_is_completed_by_the_whole_one(seed: int, tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        whole = exported(first)
        kept = random.Random(seed).randrange(len(whole.splitlines()[0]) + 1, len(whole) - 20)
        (tmp_path / "cut.jsonl").write_bytes(whole[:kept])
        report = imported(second, tmp_path / "cut.jsonl")
        assert report.skipped["incomplete"] == 1
        assert set(report.skipped) <= {"incomplete", "not_json"}
        (tmp_path / "whole.jsonl").write_bytes(whole)
        assert imported(second, tmp_path / "whole.jsonl").whole
        assert heads(second) == heads(first)


def test_an_import_that_is_interrupted_is_simply_run_again(tmp_path: Path) -> None:
    """Stopped at every step in turn, by what Ctrl-C raises."""
    with store(tmp_path / "a") as first:
        family(first)
        long = [said("x" * 1_000) for _ in range(1_200)]  # more than is restored at a time
        first.append("long", [SessionCreated("long"), *long], expected=0)
        (tmp_path / "export.jsonl").write_bytes(exported(first))
        source = Source(tmp_path / "export.jsonl")
        steps = 0
        with store(tmp_path / "b") as second:
            for stop_at in (1, 3, 10, 17, 600, 1_100, 1_210):

                def interrupt(_done: int, _total: int) -> None:
                    nonlocal steps
                    steps += 1
                    if steps == stop_at:  # noqa: B023 - called within this round
                        raise KeyboardInterrupt

                steps = 0
                with pytest.raises(KeyboardInterrupt):
                    list(import_events(source, Target(second, interrupt)))
            assert imported(second, source.path).whole
            assert heads(second) == heads(first)
    assert verify(tmp_path / "b").problems == []


def test_another_history_and_a_deleted_session_under_the_same_name_stay_as_they_are(tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        (tmp_path / "export.jsonl").write_bytes(exported(first))
        second.append("root", [SessionCreated("root"), said("mine")], expected=0)
        second.append("empty", [SessionCreated("empty")], expected=0)
        second.delete("empty")
        before = heads(second)
        report = imported(second, tmp_path / "export.jsonl")
        assert report.skipped["deleted"] == 1
        assert report.skipped["altered"] >= 2
        assert {name: head for name, head in heads(second).items() if name in before} == before


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        lines = exported(first).splitlines()
        evil = json.loads(lines[1]) | {"stream": "../../etc/passwd"}
        lines[2:2] = [
            b"garbage",
            b'{"record":"event"}',
            b'{"x":' + b"[" * 5_000,
            json.dumps(evil).encode(),
            b'{"record":"refold-export","format":99,"sessions":1}',
        ]
        (tmp_path / "export.jsonl").write_bytes(b"\n".join(lines))
        report = imported(second, tmp_path / "export.jsonl")
        # One event more than the last line says: the file is not what was written.
        assert dict(report.skipped) == {"not_json": 2, "too_deep": 1, "bad_id": 1, "newer_format": 1, "incomplete": 1}
        assert heads(second) == heads(first)


def test_the_form_of_an_export_is_the_released_one(tmp_path: Path) -> None:
    """Golden: files that were written once are read for ever."""
    with store(tmp_path / "a") as opened:
        opened.append("s", [SessionCreated("s")], expected=0)
        event = opened.log.read("s")[0]
        assert isinstance(event, Event)
        lines = [json.loads(line) for line in exported(opened).splitlines()]
    assert lines[0] == {"record": "refold-export", "format": 1, "sessions": 1}
    assert list(lines[1]) == [
        "record", "stream", "version", "type", "time_ns", "commit_id", "commit_index", "commit_size", "salt", "digest",
        "data", "meta",
    ]  # fmt: skip
    assert lines[1]["digest"] == event.digest.hex()
    assert lines[2] == {"record": "end", "events": 1}


hostile_values = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 2**31, 2**32, 2**63, 2**64 - 1, "", "00", "ff" * 16, "ff" * 32, "root", "child", "../x"]),
    st.sampled_from(["nobody", "x" * 300, "\x00", "é", "AA==", None, [], {}, 1.5, True]),
)


@settings(max_examples=30)
@given(st.data())
def test_no_record_however_hostile_ends_the_import_or_harms_the_store(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with store(path / "a") as first:
            family(first)
            records = [json.loads(line) for line in exported(first).splitlines()]
        for _ in range(data.draw(st.integers(1, 3))):
            record = data.draw(st.sampled_from(records))
            record[data.draw(st.sampled_from(sorted(record)))] = data.draw(hostile_values)
        (path / "hostile.jsonl").write_text("\n".join(map(json.dumps, data.draw(st.permutations(records)))))
        (path / "changed.jsonl").write_text("\n".join(map(json.dumps, records)))
        with store(path / "b") as second:
            for name in ("changed.jsonl", "hostile.jsonl"):
                imported(second, path / name, format_name="events")
            for name in second.list():
                second.verify(name)
            second.append("after", [SessionCreated("after")], expected=0)


@pytest.mark.parametrize("value", [-(2**70), 2**63, 2**64])
@pytest.mark.parametrize("kind", ["forked time_ns", "forked at", "event time_ns", "event version"])
def test_numbers_that_cannot_be_are_refused(kind: str, value: int, tmp_path: Path) -> None:
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        family(first)
        records = [json.loads(line) for line in exported(first).splitlines()]
        record, field = kind.split()
        next(one for one in records if one["record"] == record)[field] = value
        (tmp_path / "changed.jsonl").write_text("\n".join(map(json.dumps, records)))
        assert not imported(second, tmp_path / "changed.jsonl").whole
        second.append("after", [SessionCreated("after")], expected=0)
        assert verify(tmp_path / "b").problems == []


@pytest.mark.slow
def test_neither_way_holds_more_than_a_part_of_it_in_memory(tmp_path: Path) -> None:
    size = 40_000_000
    with store(tmp_path / "a") as first, store(tmp_path / "b") as second:
        first.append("long", [SessionCreated("long")], expected=0)
        for _ in range(20):
            first.append("long", [said("x" * (size // 1_000)) for _ in range(50)])
        tracemalloc.start()
        try:
            with (tmp_path / "export.jsonl").open("wb") as file:
                export_events(first.log, ["long"], file.write)
            assert imported(second, tmp_path / "export.jsonl").whole
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{most:,} bytes held at most, {size:,} moved")
        assert most < size
        assert heads(second) == heads(first)
