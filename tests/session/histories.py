"""Events to fold: named ones for examples, and histories of every kind of event for laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from session.events import (
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
    stored,
)
from session.fold import fold

if TYPE_CHECKING:
    from session.state import SessionState

ASK = MessageAppended.of({"role": "user", "content": "ask"})
AGAIN = MessageAppended.of({"role": "user", "content": "ask again"})
ANSWER = b'[{"type":"text","text":"answer"}]'
TEXT = b'{"type":"text","text":"let me see","n":1.10}'
CALL = {name: b'{"type":"tool_use","id":"%b","name":"f","input":{}}' % name.encode() for name in "abc"}
RESULT = {name: b'{"type":"tool_result","tool_use_id":"%b","content":"r"}' % name.encode() for name in "abc"}
USAGE = UsageRecorded(b'{"input_tokens":7,"output_tokens":5}', cost_picodollars=11)


def folded(*events: AnyEvent, start: SessionState | None = None) -> SessionState:
    return fold(stored(events, after=start.version if start else 0, recorded_at=1_000), start)


def called(*names: str, request_id: str = "r1", **facts: Any) -> ResponseReceived:
    content = b"[" + b",".join(CALL[name] for name in names) + b"]"
    facts = {"stop_reason": "tool_use", **facts}
    return ResponseReceived(request_id, content=content, tool_uses=names, **facts)


def answered(request_id: str = "r1", message_id: str = "", stop_reason: str = "end_turn") -> ResponseReceived:
    return ResponseReceived(request_id, message_id, content=ANSWER, stop_reason=stop_reason)


def results(*names: str) -> bytes:
    return b'{"role":"user","content":[' + b",".join(RESULT[name] for name in names) + b"]}"


names = st.sampled_from("abc")
requests = st.sampled_from(["r1", "r2"])
appended = st.one_of(
    st.sampled_from([ASK, AGAIN]),
    st.builds(lambda role, text: MessageAppended.of({"role": role, "content": text}), st.text(max_size=3), st.text()),
    st.builds(lambda given: MessageAppended.of(results(*given)), st.lists(names, min_size=1, max_size=3)),
    st.builds(lambda raw: MessageAppended.of(raw, message_id="msg_x"), st.binary(max_size=20)),
    st.just(MessageAppended.of({"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]})),
)
received = st.one_of(
    st.builds(called, names, names, request_id=requests, message_id=st.just("msg_1")),
    st.builds(answered, requests, st.just("msg_2"), st.sampled_from(["end_turn", "pause_turn", "max_tokens"])),
    st.builds(ResponseReceived, requests, blocks=st.integers(0, 2)),
)
of_tools = st.one_of(
    st.builds(ToolStarted, names, st.text(max_size=2)),
    st.builds(lambda name: ToolReturned(name, RESULT[name]), names),
    st.builds(lambda name: ToolRefused(name, RESULT[name]), names),
    st.builds(lambda name: SessionRepaired(("x",), (RepairedResult(name, RESULT[name]),)), names),
)
forward = st.one_of(
    appended,
    received,
    of_tools,
    st.builds(RequestSent, requests, st.integers(0, 9)),
    st.builds(
        lambda request, index, name: BlockReceived(request, index, CALL[name], name), requests, st.integers(0, 1), names
    ),
    st.builds(ResponseInterrupted, requests, st.just("cut")),
    st.builds(
        UsageRecorded,
        st.sampled_from([b'{"input_tokens":3}', b'{"x":{"y":1}}']),
        cost_picodollars=st.none() | st.integers(0, 9),
    ),
    st.builds(
        MetadataUpdated,
        st.sampled_from([b'{"title":"t"}', b'{"tags":["u"]}', b"{"]),
        st.sampled_from([b"[]", b'["title"]']),
    ),
    st.builds(PromptChanged, model=st.text(max_size=2)),
    st.just(SessionClosed()),
    st.builds(UnknownEvent, st.just("later"), st.binary(max_size=3)),
    st.builds(HistoryCompacted, st.integers(-1, 4), st.lists(st.just(ASK.message), max_size=2).map(tuple)),
    st.just(SessionForked("child", "parent", 3)),
    st.just(SessionCreated("s", 7, "p")),
    st.just(SourceRecorded("importer", 1, "file.jsonl", 0, 3, b"abc")),
)
backward = st.builds(HistoryRewound, st.integers(-1, 6)) | st.builds(answered, requests, stop_reason=st.just("refusal"))
histories = st.lists(forward | backward, max_size=30)
