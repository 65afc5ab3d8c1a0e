"""Whatever is left of a session, it can go on: the events of a rich one, cut at every index.

A crash leaves the first so many events, no matter which. Folded and repaired they have to be a history that both judges
take: `lint`, and the rules of the Messages API, which know nothing of it and judge the bytes as they would be sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from session import jsontext
from session.events import (
    EVENT_CLASSES,
    AnyEvent,
    BlockReceived,
    HistoryCompacted,
    HistoryRewound,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    RepairedResult,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionClosed,
    SessionCreated,
    SessionForked,
    SessionRepaired,
    SourceRecorded,
    ToolRefused,
    ToolReturned,
    ToolStarted,
    UnknownEvent,
    UsageRecorded,
)
from session.fold import fold
from session.lint import lint, plan, repair, repair_additions
from session.state import SessionState
from session.storage import EventSessionStorage
from session.testing import check_body
from tests.session.histories import folded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODEL: Final = "claude-opus-5-5"
PARENT: Final = "sess_parent"
CHILD: Final = "sess_child"
GO_ON: Final = {"role": "user", "content": "and now?"}


# --- a rich session ---------------------------------------------------------------------------------------------------


def ask(text: str) -> MessageAppended:
    return MessageAppended.of({"role": "user", "content": text})


def text(value: str) -> bytes:
    return jsontext.encode({"type": "text", "text": value})


def thought(signature: str) -> bytes:
    return jsontext.encode({"type": "thinking", "thinking": "", "signature": signature})


def use(tool_use_id: str) -> bytes:
    return b'{"type":"tool_use","id":"%b","name":"bash","input":{"timeout":1.10}}' % tool_use_id.encode()


def result(tool_use_id: str, *, is_error: bool = False) -> bytes:
    block = {"type": "tool_result", "tool_use_id": tool_use_id, "content": f"of {tool_use_id}", "is_error": is_error}
    return jsontext.encode(block)


def running(request_id: str, *blocks: tuple[bytes, str]) -> list[AnyEvent]:
    """A streamed response up to its last finished block; each block with the id of its tool_use, or ""."""
    received = [BlockReceived(request_id, index, block, call) for index, (block, call) in enumerate(blocks)]
    return [RequestSent(request_id, 0, stream=True), *received]


def streamed(request_id: str, *blocks: tuple[bytes, str], stop_reason: str) -> list[AnyEvent]:
    complete = ResponseReceived(request_id, f"msg_{request_id}", MODEL, stop_reason, blocks=len(blocks))
    return [*running(request_id, *blocks), billed(request_id), complete]


def whole(request_id: str, *blocks: bytes, calls: tuple[str, ...] = (), stop_reason: str) -> list[AnyEvent]:
    """A response that arrives in one piece."""
    content = b"[" + b",".join(blocks) + b"]"
    complete = ResponseReceived(request_id, f"msg_{request_id}", MODEL, stop_reason, content, calls)
    return [RequestSent(request_id, 0), billed(request_id), complete]


def billed(request_id: str) -> UsageRecorded:
    return UsageRecorded(b'{"input_tokens":7,"output_tokens":5}', MODEL, cost_picodollars=11, request_id=request_id)


SEARCH: Final = b'{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}'
FOUND: Final = b'{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}'

PARALLEL_TOOLS: Final[list[AnyEvent]] = [
    ask("fix the bug"),
    *streamed(
        "r1", (thought("s1"), ""), (text("I look."), ""), (use("t1"), "t1"), (use("t2"), "t2"), stop_reason="tool_use"
    ),
    ToolStarted("t1", "bash"),
    ToolStarted("t2", "bash"),
    ToolReturned("t2", result("t2")),
    ToolReturned("t1", result("t1", is_error=True), is_error=True),
]
CUT_RESPONSES_AND_ERRORS: Final[list[AnyEvent]] = [
    *running("r2", (thought("s2"), ""), (use("t3"), "t3")),
    ToolStarted("t3", "bash"),
    ToolReturned("t3", result("t3")),  # of a call that never became part of a message
    ResponseInterrupted("r2", "cut", partial=b'{"type":"tool_u'),
    RequestSent("r3", 0),
    ResponseInterrupted("r3", "error", 529, b'{"type":"error"}'),
    *running("r4"),
    ResponseInterrupted("r4", "cancelled"),
]
OTHER_OUTCOMES: Final[list[AnyEvent]] = [
    *whole("r5", thought("s5"), use("t4"), use("t5"), use("t6"), calls=("t4", "t5", "t6"), stop_reason="tool_use"),
    ToolRefused("t5", result("t5", is_error=True), "not allowed"),
    ToolStarted("t4", "bash"),  # and never ended
    SessionRepaired(("unanswered_tool_use",), (RepairedResult("t4", result("t4")), RepairedResult("t6", result("t6")))),
    *streamed("r6", (thought("s6"), ""), (text("Done."), ""), stop_reason="end_turn"),
    SessionClosed(),
]
PAUSE_AND_REFUSAL: Final[list[AnyEvent]] = [
    ask("search"),
    *whole("r7", SEARCH, stop_reason="pause_turn"),
    *whole("r8", FOUND, text("Found."), stop_reason="end_turn"),
    UnknownEvent("later", b"\xc0"),
    ask("something forbidden"),
    *whole("r9", text("No."), stop_reason="refusal"),
]
REWINDS: Final[list[AnyEvent]] = [
    ask("try this"),
    *streamed("r10", (use("t7"), "t7"), (use("t8"), "t8"), stop_reason="tool_use"),
    ToolReturned("t7", result("t7")),
    ToolReturned("t8", result("t8")),
    *whole("r11", text("It failed."), stop_reason="end_turn"),
    HistoryRewound(11),  # to just behind the tool_uses
    ToolReturned("t8", result("t8")),
    HistoryRewound(9),  # to before the ask
    ask("try that"),
    *whole("r12", thought("s12"), use("t9"), calls=("t9",), stop_reason="tool_use"),
    MessageAppended.of(b'{"role":"user","content":[' + result("t9") + b"]}"),
    *whole("r13", text("That works."), stop_reason="end_turn"),
]
UNSENDABLE: Final[list[AnyEvent]] = [  # bytes that are kept, and that the API reads no body with
    MessageAppended.of(b'{"role":"user","content":"caf\xe9"}'),
    *whole("r20", text("half a pair: \ud83d"), use("t20"), calls=("t20",), stop_reason="tool_use"),
    ToolReturned("t20", b'{"type":"tool_result","tool_use_id":"t20","content":[{"type":"text","text":"x","n":NaN}]}'),
    *whole("r21", use("t21"), use("t22"), calls=("t21", "t22"), stop_reason="tool_use"),
    ToolReturned("t21", result("t21")),
    ToolReturned("t22", b'{"type":"tool_result","tool_use_id":"t22","content":"\xff"}'),
    *whole("r22", b'{"type":"tool_use","id":"t23","name":"f","input":[1', calls=("t23",), stop_reason="tool_use"),
    ToolReturned("t23", result("t23")),
    *whole("r23", text("Strange."), stop_reason="end_turn"),
]
COMPACTION: Final[list[AnyEvent]] = [
    HistoryCompacted(12, (ask("What was done so far: ...").message,)),  # the newest answer stays
    *UNSENDABLE,
    ask("go on"),
    *streamed("r14", (thought("s14"), ""), (use("t10"), "t10"), (use("t11"), "t11"), stop_reason="tool_use"),
    ToolStarted("t10", "bash"),
    ToolReturned("t10", result("t10")),
]
OF_THE_PARENT: Final[list[AnyEvent]] = [
    SessionCreated(PARENT, 7),
    SourceRecorded("importer", 1, "file.jsonl", 0, 3, b"abc"),
    PromptChanged(MODEL, b'"be brief"', b"[]", b'{"max_tokens":100}'),
    MetadataUpdated(b'{"title":"a bug"}'),
    *PARALLEL_TOOLS,
    *CUT_RESPONSES_AND_ERRORS,
    *OTHER_OUTCOMES,
    *PAUSE_AND_REFUSAL,
    *REWINDS,
    *COMPACTION,
    ToolReturned("t11", result("t11")),
    *running("r15", (thought("s15"), "")),
]
FORKED_AT: Final = len(OF_THE_PARENT) - 3  # t11 has no outcome yet
OF_THE_CHILD: Final[list[AnyEvent]] = [
    ToolStarted("t11", "bash"),
    ToolReturned("t11", result("t11")),
    *streamed("r16", (thought("s16"), ""), (use("t12"), "t12"), stop_reason="tool_use"),
    ToolStarted("t12", "bash"),
    ask("never mind that tool"),
    *whole("r17", text("As you wish."), stop_reason="end_turn"),
    HistoryRewound(1),
    ask("from the beginning"),
    *running("r18", (use("t13"), "t13")),
    ResponseInterrupted("r18", "lost"),
]
OF_THE_FORK: Final[list[AnyEvent]] = [
    *OF_THE_PARENT[:FORKED_AT],
    SessionForked(CHILD, PARENT, FORKED_AT),
    *OF_THE_CHILD,
]
LINEAGES: Final = {PARENT: OF_THE_PARENT, CHILD: OF_THE_FORK}
CUTS: Final = [(name, length) for name, events in LINEAGES.items() for length in range(len(events) + 1)]


def test_the_session_has_every_event_and_every_kind_of_ending() -> None:
    assert {event.type for events in LINEAGES.values() for event in events} == {*EVENT_CLASSES, "later"}
    kinds = {state.pending and state.pending.kind for state in (folded(*LINEAGES[name][:cut]) for name, cut in CUTS)}
    assert kinds == {None, "request", "tool_use", "cut_response", "pause_turn", "message"}
    assert [len(state.messages) for state in map(whole_state, LINEAGES)] == [13, 2]


def whole_state(name: str) -> SessionState:
    return folded(*LINEAGES[name])


# --- both judges ------------------------------------------------------------------------------------------------------


def doubtful(state: SessionState) -> list[str]:
    return [run.tool_use_id for run in state.in_doubt]


def viewed(state: SessionState) -> list[dict[str, Any]]:
    return repair(list(state.messages), in_doubt=doubtful(state))


def sent(state: SessionState) -> list[bytes]:
    """The text of each message of the view: the recorded bytes where it is the recorded message."""
    raw = state.messages.raw
    view = plan(list(state.messages), in_doubt=doubtful(state)).view
    return [jsontext.encode(each.message) if each.origin is None else raw[each.origin] for each in view]


def refusals(texts: Sequence[bytes]) -> list[str]:
    """What both judges have against the messages *texts* as a request."""
    body = b'{"model":"%b","max_tokens":100,"messages":[%b]}' % (MODEL.encode(), b",".join(texts))
    error = check_body(body)
    found = lint([jsontext.parse_or_show(text) for text in texts], sending=True)
    return [problem.text for problem in found] + ([error.message] if error else [])


def check_goes_on(state: SessionState) -> None:
    """What is pending can be sent as it is, unless it is set aside, and the user can say something else at any time."""
    view, texts = viewed(state), sent(state)
    assert lint(view) == []
    assert repair(view) == view
    if state.pending and not is_unreadable_ask(state):
        assert refusals(texts) == []
    if not state.pending:
        assert refusals([*texts, jsontext.encode(GO_ON)]) == []
    assert refusals([*map(jsontext.encode, repair([*view, GO_ON]))]) == []


def is_unreadable_ask(state: SessionState) -> bool:
    newest = state.messages.entries[-1:]
    return any(isinstance(entry.parsed(), jsontext.Unreadable) and not entry.tool_results for entry in newest)


@pytest.mark.parametrize(("name", "length"), CUTS)
def test_a_session_cut_anywhere_is_repaired_to_what_both_judges_take(name: str, length: int) -> None:
    check_goes_on(folded(*LINEAGES[name][:length]))


@pytest.mark.parametrize(("name", "length"), CUTS)
def test_what_repair_adds_to_a_cut_session_is_found_again_in_its_events(name: str, length: int) -> None:
    events = LINEAGES[name][:length]
    state = folded(*events)
    additions = repair_additions(list(state.messages), in_doubt=doubtful(state))
    results = [RepairedResult(each.tool_use_id, jsontext.encode(each.block)) for each in additions if each.appended]
    repaired = folded(*events, SessionRepaired(("unanswered_tool_use",), tuple(results)))

    assert not any(each.appended for each in repair_additions(list(repaired.messages)))
    assert viewed(repaired) == viewed(state)
    check_goes_on(folded(*events, SessionRepaired((), tuple(results)), MessageAppended.of(GO_ON)))


def test_without_repair_many_of_the_cuts_could_not_be_sent() -> None:
    states = [folded(*LINEAGES[name][:length]) for name, length in CUTS]
    broken = [state for state in states if refusals([*state.messages.raw, jsontext.encode(GO_ON)])]
    assert len(broken) > len(CUTS) // 5


LENGTHS: Final = range(len(OF_THE_PARENT) + 1)


@pytest.mark.parametrize("length", [n if n % 4 == 0 else pytest.param(n, marks=pytest.mark.slow) for n in LENGTHS])
def test_a_cut_session_rewound_or_compacted_to_anywhere_is_repaired_too(length: int) -> None:
    events = OF_THE_PARENT[:length]
    summary = (ask("what was before").message,)
    for count in range(len(folded(*events).messages) + 1):
        check_goes_on(folded(*events, HistoryRewound(count)))
        check_goes_on(folded(*events, HistoryCompacted(count, summary)))


# --- through a storage ------------------------------------------------------------------------------------------------


async def written(storage: EventSessionStorage) -> None:
    """Both sessions, an event at a time."""
    for number, event in enumerate(OF_THE_PARENT):
        await storage.append(PARENT, [event], expected=number)
    await storage.fork(PARENT, CHILD, at=FORKED_AT)
    for number, event in enumerate(OF_THE_CHILD):
        await storage.append(CHILD, [event], expected=FORKED_AT + 1 + number)


@pytest.mark.parametrize("name", LINEAGES)
def test_a_stored_session_goes_on_from_its_state_at_any_version(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with EventSessionStorage(tmp_path, durability="os") as storage:
            await written(storage)
        async with EventSessionStorage(tmp_path, durability="os") as storage:
            events = [event async for event in storage.events(name)]
            assert [event.event for event in events] == LINEAGES[name]
            for version in range(len(events) + 1):
                state = await storage.state_at(name, version)
                assert state == fold(events[:version], SessionState(id=name))
                check_goes_on(state)

    asyncio.run(main())


@pytest.mark.parametrize("name", LINEAGES)
def test_a_stored_session_goes_on_in_a_fork_of_any_version(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with EventSessionStorage(tmp_path, durability="os") as storage:
            await written(storage)
            for version in range(len(LINEAGES[name]) + 1):
                child = await storage.load(await storage.fork(name, at=version))
                assert child is not None
                assert child.messages == (await storage.state_at(name, version)).messages
                check_goes_on(child)

    asyncio.run(main())
