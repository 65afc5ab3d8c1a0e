"""A small deterministic model that works with tools, for demos and for tests that need a whole conversation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from session.testing.script import Reply, calls, says, thinks

if TYPE_CHECKING:
    from collections.abc import Callable

_WORDS: Final = ("alpha", "report", "notes.md", "main", "status", "weekly")
_NO_SCHEMA: Final[dict[str, dict[str, Any]]] = {
    "bash": {"command": "ls"},
    "str_replace_based_edit_tool": {"command": "view", "path": "."},
    "memory": {"command": "view", "path": "/memories"},
}
_SHOWN_CHARS: Final = 60


def tool_using_model(
    *, rounds: int = 2, parallel: int = 1, thinking: bool = True, seed: int = 0
) -> Callable[[dict[str, Any], int], Reply]:
    """A script for `ScriptedApi`: in each turn, *rounds* answers that call *parallel* tools, then one of text.

    What it says depends on the request's body and *seed* alone, so it goes on from any history, after any crash. The
    tools are those of the request, in turn; their inputs fit their schemas (required properties, simple types). Without
    tools, it only talks.
    """

    def script(body: dict[str, Any], _number: int) -> Reply:
        asked, results = _turn(body["messages"])
        chance = random.Random(f"{seed}:{len(body['messages'])}:{asked}")
        tools = [tool for tool in body.get("tools") or [] if "name" in tool]
        thought = [thinks(f"They want: {_short(asked)}. I have seen {len(results)} results.")] if thinking else []
        if not tools or len(results) >= rounds * parallel:
            return Reply(content=[*thought, says(_conclusion(asked, results))])
        used = [tools[(len(results) + offset) % len(tools)] for offset in range(parallel)]
        uses = [calls(tool["name"], _input(tool, chance)) for tool in used]
        return Reply(content=[*thought, says(f"Let me use {', '.join(tool['name'] for tool in used)}."), *uses])

    return script


def _turn(messages: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """What the user asked last, and the tool results since."""
    asked = ""
    results: list[str] = []
    for message in messages:
        if message["role"] != "user":
            continue
        content = message["content"]
        blocks = [says(content)] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] == "text":
                asked, results = block["text"], []
            elif block["type"] == "tool_result":
                results.append(_result_text(block.get("content")))
    return asked, results


def _result_text(content: Any) -> str:  # noqa: ANN401 - any JSON
    if isinstance(content, list):
        return " ".join(str(block.get("text", block.get("type"))) for block in content)
    return "" if content is None else str(content)


def _conclusion(asked: str, results: list[str]) -> str:
    if not results:
        return f"You said: {_short(asked)}"
    return f"Done: {_short(asked)}\n" + "\n".join(f"- {_short(result)}" for result in results)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 1] + "…"


def _input(tool: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    schema = tool.get("input_schema")
    if schema is None:
        return dict(_NO_SCHEMA.get(tool["name"], {}))
    properties = schema.get("properties") or {}
    names = [name for name in properties if name in (schema.get("required") or properties)]
    return {name: _value(properties[name], chance) for name in names}


def _value(schema: dict[str, Any], chance: random.Random) -> Any:  # noqa: ANN401 - any JSON
    least = schema.get("minimum", 1)
    made: dict[str, Callable[[], Any]] = {
        "integer": lambda: least + chance.randrange(9),
        "number": lambda: least + chance.randrange(90) / 10,
        "boolean": lambda: chance.random() < 0.5,
        "array": lambda: [_value(schema.get("items") or {}, chance)],
        "object": lambda: _input({"input_schema": schema}, chance),
    }
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return chance.choice(schema["enum"])
    return made.get(str(schema.get("type")), lambda: chance.choice(_WORDS))()
