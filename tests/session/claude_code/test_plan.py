"""For any tree of lines: which sessions they come to, and that neither order nor cuts count anything twice."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from session.claude_code.lines import parse_line
from session.claude_code.plan import Plan
from session.fold import Fold
from session.pricing import load_prices

if TYPE_CHECKING:
    from session import SessionState, Usage
    from session.events import SessionEvent

PRICES = load_prices()
MODEL = "claude-sonnet-4-5-20250929"


@st.composite
def trees(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Lines that follow any earlier one; responses share few message ids, so their parts lie in many branches."""
    lines: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 14))):
        behind = draw(st.one_of(st.none(), st.integers(max(0, number - 4), number)))
        kind = draw(st.sampled_from(["user", "assistant", "assistant", "system"]))
        line: dict[str, Any] = {"type": kind, "uuid": f"u{number}", "timestamp": "2026-05-01T10:00:00Z"}
        line["parentUuid"] = f"u{behind}" if behind is not None and behind < number else None
        if kind == "user":
            line["message"] = {"content": f"t{number}"}
        elif kind == "assistant":
            used = {"input_tokens": draw(st.integers(1, 9)), "output_tokens": draw(st.integers(1, 9))}
            about = {"id": f"msg_{draw(st.integers(0, 3))}", "model": MODEL, "usage": used}
            line["message"] = {**about, "content": [{"type": "text", "text": f"t{number}"}]}
        lines.append(line)
    return lines


def planned(lines: list[dict[str, Any]], cuts: set[int] | None = None) -> dict[str, SessionState]:
    """The sessions that *lines* come to, if the file ended at *cuts* once."""
    plan = Plan("home", prices=PRICES)
    plan.begin(0)
    for number, line in enumerate(lines):
        if number in (cuts or ()):
            plan.end()
        plan.add(parse_line(json.dumps(line).encode()))
    plan.end()
    events: dict[int, list[SessionEvent]] = {}
    for step in plan.steps:
        if step.at is not None:
            events[step.branch] = events[step.at.branch][: step.at.version]
        events.setdefault(step.branch, []).append(step.event)
    return {plan.branches[number].session_id: folded(found) for number, found in events.items()}


def folded(events: list[SessionEvent]) -> SessionState:
    fold = Fold()
    for version, event in enumerate(events, 1):
        fold.version = version - 1
        fold.add(event, 0)
    return fold.state()


def texts(state: SessionState) -> tuple[str, ...]:
    contents = [message["content"] for message in state.messages]
    return tuple(
        text
        for content in contents
        for text in ([content] if isinstance(content, str) else [block["text"] for block in content])
    )


class Node:
    """A message in the making of the oracle, which knows no branches: lines of one response join while none follows."""

    def __init__(self, parent: Node | None, response: str | None) -> None:
        self.parent, self.response = parent, response
        self.texts: list[str] = []
        self.followed = False

    def history(self) -> tuple[str, ...]:
        return (*(self.parent.history() if self.parent else ()), *self.texts)


def histories(lines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """What a reader sees from each message that none follows."""
    nodes: list[Node] = []
    at: dict[str | None, Node | None] = {None: None}
    for line in lines:
        parent = at[line["parentUuid"]]
        if "message" not in line:
            at[line["uuid"]] = parent
            continue
        response = line["message"].get("id")
        if parent is None or parent.followed or response is None or parent.response != response:
            if parent is not None:
                parent.followed = True
            parent = Node(parent, response)
            nodes.append(parent)
        parent.texts.append(f"t{line['uuid'][1:]}")
        at[line["uuid"]] = parent
    return sorted(node.history() for node in nodes if not node.followed)


def total(states: dict[str, SessionState]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for state in states.values():
        counted.update(dict(state.own_usage.counters))
    return counted


@given(lines=trees())
def test_each_message_is_in_exactly_the_sessions_in_which_something_follows_it(lines: list[dict[str, Any]]) -> None:
    found = sorted(texts(state) for state in planned(lines).values())
    assert [it for it in found if it] == histories(lines)


@given(lines=trees())
def test_the_usage_of_all_sessions_is_the_last_one_of_each_response(lines: list[dict[str, Any]]) -> None:
    last = {line["message"]["id"]: line["message"]["usage"] for line in lines if line["type"] == "assistant"}
    expected: Counter[str] = Counter()
    for usage in last.values():
        expected.update(usage)
    assert total(planned(lines)) == expected


def said_in_parts() -> list[dict[str, Any]]:
    """A response that goes on behind a line that is no message, which the next ask follows."""
    usage = {"id": "msg_1", "model": MODEL, "usage": {"input_tokens": 1, "output_tokens": 1}}
    parts = [{**usage, "content": [{"type": "text", "text": f"t{number}"}]} for number in (0, 2)]
    return [
        {"type": "assistant", "uuid": "u0", "parentUuid": None, "message": parts[0]},
        {"type": "system", "uuid": "u1", "parentUuid": "u0"},
        {"type": "assistant", "uuid": "u2", "parentUuid": "u0", "message": parts[1]},
        {"type": "user", "uuid": "u3", "parentUuid": "u1", "message": {"content": "t3"}},
    ]


@example(lines=said_in_parts(), cuts={1})
@given(lines=trees(), cuts=st.sets(st.integers(1, 13)))
def test_it_does_not_matter_at_which_lines_the_file_ended_before(lines: list[dict[str, Any]], cuts: set[int]) -> None:
    def known(states: dict[str, SessionState]) -> dict[str, tuple[tuple[str, ...], Usage, Usage]]:
        return {name: (texts(state), state.usage, state.own_usage) for name, state in states.items()}

    assert known(planned(lines, cuts)) == known(planned(lines))


def test_a_chain_of_20000_lines_is_no_deep_call() -> None:
    lines = [{"type": "user", "uuid": f"u{n}", "message": {"content": "x"}} for n in range(20_000)]
    for before, line in pairwise(lines):
        line["parentUuid"] = before["uuid"]
    plan = Plan("home", prices=PRICES)
    plan.begin(0)
    for line in lines:
        plan.add(parse_line(json.dumps(line).encode()))
    plan.end()
    assert len(plan.steps) == 20_001
