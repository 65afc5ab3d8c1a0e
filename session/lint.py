"""What is wrong with a history, and the history that can be sent instead. Pure: messages in, values out.

`lint(messages)` lists what the Messages API would refuse in a conversation that goes on. `repair(messages)` is the
*request view*: the messages to send. What was recorded is never rewritten; the view differs from it in what repair

- **adds**: an `is_error` tool_result for every tool_use without one (`repair_additions`). These are the facts to
  record: by them the view is found again. They stand in the first user message after the tool_use, before everything
  else, all results of the turn in the order of its tool_uses. At the end of a history that message is new, or the one
  of the turn's other results; in the middle the user's message exists and was sent, so it is the *view* of that message
  that begins with the results, while the record keeps it as it is;
- **moves**: a tool_result that is there but behind something else goes to the front of its turn; a system message in
  the wrong place goes behind the next user message;
- **leaves out**: what no request may carry: cut responses, refused turns (the ask and all), orphan and repeated
  results, repeated tool_uses, empty or blank text, blocks without a type, known blocks that are broken (a tool input
  that is no object, thinking without its signature), server tools that the conversation went on without, what stands
  before the first ask, the fields of a response around its content; and what the API's parser takes for no JSON
  (anthropics/claude-code#60394): NaN, halves of surrogate pairs, messages whose bytes no parser of ours takes either.

`repair(repair(x)) == repair(x)`, and `lint(repair(x))` is empty. A message that needs nothing is passed on as the same
object, so its exact bytes can be reused; `plan` tells which (`ViewMessage.origin`).

Consecutive messages of one role are one turn to the API. A turn that the server paused (`pause_turn`) ends the history
with an assistant's message, perhaps with an unanswered server tool: nothing is wrong with that, it is sent as it is. An
assistant's message without content is left alone: the API takes it, and later thinking is bound to what came before it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from session._finders import find_unsendable, finders
from session._history import Block, Code, Exchange, Finding, Item, Part, Remedy, read, tool_uses
from session.jsontext import Unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

Message: TypeAlias = "dict[str, Any]"

NOT_RUN: Final = "This tool was not run: the session was interrupted before it started."
IN_DOUBT: Final = (
    "The session was interrupted before a result of this tool was recorded. It may have run in full, in part or not at "
    "all: check before you run it again."
)


class Problem(msgspec.Struct, frozen=True):
    """Something the API would refuse. `block_index` is None where it is about the message as a whole. `remedy` is what
    `repair` does about it.
    """

    code: Code
    message_index: int
    block_index: int | None
    text: str
    remedy: Remedy = "leave_out"


class Addition(msgspec.Struct, frozen=True):
    """The tool_result *block* that repair gives to a tool_use of the message at *message_index*.

    *appended*: it goes to the end of the history, into the message of the turn's results (a new one, if there is none);
    otherwise into the view of the user's next message. *in_doubt*: the tool may have run, and no one knows how far it
    came.
    """

    message_index: int
    tool_use_id: str
    block: Block
    appended: bool
    in_doubt: bool = False


class ViewMessage(msgspec.Struct, frozen=True):
    """A message of the request view. *origin* is its index in the history if it is exactly that message."""

    message: Message
    origin: int | None


class Plan(msgspec.Struct, frozen=True):
    """What is wrong, what repair adds, and the view it arrives at."""

    problems: list[Problem]
    additions: list[Addition]
    view: list[ViewMessage]


def lint(
    messages: Sequence[Any],
    *,
    cut: Collection[int] = (),
    refused: Collection[int] = (),
    sending: bool = False,
) -> list[Problem]:
    """What is wrong with the history *messages*, in order of place.

    *cut*: indexes of responses that did not complete; *refused*: of responses with the stop reason `refusal`. With
    *sending*, the messages are also judged as the request that they would be now: there must be some, and they must end
    with the user's turn (or with one that the server paused).
    """
    items = read(messages)
    found = [_problem(finding) for find in finders(cut, refused) for finding in find(items)]
    if sending:
        found += [_problem(finding) for finding in find_unsendable(items)]
    return sorted(found, key=_place)


def repair(
    messages: Sequence[Any],
    *,
    cut: Collection[int] = (),
    refused: Collection[int] = (),
    in_doubt: Collection[str] = (),
) -> list[Message]:
    """The request view of *messages*: see the module's head. *in_doubt*: tool_uses without outcome that may have run;
    of the others without a result it says that they were not run.

    Messages and blocks that need nothing are the same objects as in *messages*, which is not changed.
    """
    return [entry.message for entry in plan(messages, cut=cut, refused=refused, in_doubt=in_doubt).view]


def repair_additions(
    messages: Sequence[Any],
    *,
    cut: Collection[int] = (),
    refused: Collection[int] = (),
    in_doubt: Collection[str] = (),
) -> list[Addition]:
    """What repair adds to *messages*, in order: to be recorded, once, before the view is sent."""
    return plan(messages, cut=cut, refused=refused, in_doubt=in_doubt).additions


def plan(
    messages: Sequence[Any],
    *,
    cut: Collection[int] = (),
    refused: Collection[int] = (),
    in_doubt: Collection[str] = (),
) -> Plan:
    """Problems, additions and view of *messages* together."""
    problems = lint(messages, cut=cut, refused=refused)
    if not problems:
        return Plan([], [], [ViewMessage(message, index) for index, message in enumerate(messages)])
    work = _Work(read(messages), {*in_doubt, *_answered_unreadably(messages)})
    # Leaving one thing out can orphan another, so it goes on until nothing is found. Every round takes something away
    # for good, answers a tool_use, or moves something to where it stays: it ends.
    while any(work.apply(list(find(work.items))) for find in finders(cut, refused)):
        pass
    return Plan(
        problems=problems,
        additions=work.additions(),
        view=[_viewed(item) for item in work.items],
    )


class _Work:
    """Items, changed until nothing is wrong with them."""

    def __init__(self, items: list[Item], in_doubt: Collection[str]) -> None:
        self.items = items
        self._asking, self._answers = _end_of_record(items)
        self._in_doubt = frozenset(in_doubt)
        self._added: dict[Part, Addition] = {}

    def apply(self, findings: list[Finding]) -> bool:
        """Do what each finding asks for. Returns whether there was anything to do."""
        gone: set[Item] = set()
        misplaced: set[Item] = set()
        dropped: set[Part] = set()
        exchanges: dict[int, Exchange] = {}
        for finding in findings:
            if finding.exchange is not None:
                exchanges[id(finding.exchange)] = finding.exchange
            elif finding.replacement is not None:
                _replace(finding)
            elif finding.code == "misplaced_system_message":
                misplaced.add(finding.item)
            elif finding.part is None:
                gone.add(finding.item)
            else:
                dropped.add(finding.part)
        self._leave_out(gone, dropped)
        for exchange in exchanges.values():
            self._answer(exchange)
        if misplaced:
            self.items = _moved_behind_users(self.items, misplaced)
        return bool(findings)

    def additions(self) -> list[Addition]:
        """What was added and still stands, in order of place."""
        return [self._added[part] for item in self.items for part in item.parts if part in self._added]

    def _leave_out(self, gone: set[Item], dropped: set[Part]) -> None:
        if gone:
            self.items = [item for item in self.items if item not in gone]
        for item in self.items if dropped else ():
            kept = [part for part in item.parts if part not in dropped]
            if len(kept) < len(item.parts):
                item.parts, item.changed = kept, True

    def _answer(self, exchange: Exchange) -> None:
        """Put a result for each tool_use of the exchange, in their order, before everything else the user says."""
        present: dict[str | None, Part] = {part.answers: part for item in exchange.answering for part in item.parts}
        present.pop(None, None)
        # In the record, too: what follows there and is left out of the view is there nonetheless.
        at_end = exchange.asking[-1] is self._asking and self._answers <= tool_uses(exchange).keys()
        results = []
        for tool_use_id, item in tool_uses(exchange).items():
            if tool_use_id not in present:
                self._add(present, tool_use_id, item, appended=at_end)
            results.append(present[tool_use_id])
        for item in exchange.answering:
            kept = [part for part in item.parts if part.answers not in present]
            item.changed = item.changed or len(kept) < len(item.parts)
            item.parts = kept
        target = exchange.answering[0] if exchange.answering else self._new_message(after=exchange.asking[-1])
        target.parts, target.changed = results + target.parts, True

    def _add(self, present: dict[str | None, Part], tool_use_id: str, item: Item, *, appended: bool) -> None:
        doubtful = tool_use_id in self._in_doubt
        block = {
            "type": "tool_result",
            "tool_use_id": tool_use_id,
            "content": IN_DOUBT if doubtful else NOT_RUN,
            "is_error": True,
        }
        present[tool_use_id] = part = Part(None, block)
        # Only a message of the history calls tools: repair itself makes none that do.
        self._added[part] = Addition(item.index or 0, tool_use_id, block, appended, doubtful)

    def _new_message(self, *, after: Item) -> Item:
        made = Item(None, {"role": "user"}, "user", changed=True)
        self.items.insert(self.items.index(after) + 1, made)
        return made


def _end_of_record(items: list[Item]) -> tuple[Item | None, set[str | None]]:
    """The message behind which nothing but results stands at the end of the history, and what they answer."""
    answers: set[str | None] = set()
    for item in reversed(items):
        if item.role == "system":
            continue
        answered = {part.answers for part in item.parts}
        if item.role != "user" or not answered or None in answered:
            return item, answers
        answers |= answered
    return None, answers


def _answered_unreadably(messages: Sequence[Any]) -> Iterator[str]:
    """The tool_uses whose results no parser takes: they may have run."""
    calls: list[str] = []
    for message in messages:
        if isinstance(message, Unreadable):
            yield from calls
        elif isinstance(message, dict) and message.get("role") == "assistant":
            content = message.get("content")
            blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
            calls = [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]


def _replace(finding: Finding) -> None:
    assert finding.replacement is not None
    if finding.part is None:
        finding.item.message = finding.replacement
    else:
        finding.part.value = finding.replacement
    finding.item.changed = True


def _moved_behind_users(items: list[Item], misplaced: set[Item]) -> list[Item]:
    """Each misplaced system message behind the user's turn that comes next; left out while there is none."""
    others = [item for item in items if item not in misplaced and not item.is_directive]
    ends_turn = {
        item for item, after in itertools.zip_longest(others, others[1:]) if after is None or after.role != item.role
    }
    moved: list[Item] = []
    waiting: list[Item] = []
    for item in items:
        if item in misplaced:
            waiting.append(item)
            continue
        moved.append(item)
        if item.role == "user" and item in ends_turn:
            moved += waiting
            waiting = []
    return moved


def _viewed(item: Item) -> ViewMessage:
    if not item.changed:
        return ViewMessage(item.message, item.index)
    return ViewMessage({**item.message, "content": [part.value for part in item.parts]}, None)


def _problem(finding: Finding) -> Problem:
    return Problem(
        code=finding.code,
        message_index=finding.item.index or 0,
        block_index=finding.part.index if finding.part else None,
        text=finding.text,
        remedy=finding.remedy,
    )


def _place(problem: Problem) -> tuple[int, int]:
    return problem.message_index, -1 if problem.block_index is None else problem.block_index
