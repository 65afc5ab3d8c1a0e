"""A weather station with two sensors: harmless tools, and a scripted model that looks after it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from session.testing.script import Reply, calls, says, thinks

MODEL: Final = "claude-sonnet-5-5"
SYSTEM: Final = "You look after a small weather station. Use the tools; call them for all sensors at once."
ASKS: Final = ("How warm is it on the roof and in the cellar?", "What is the difference?")
CALIBRATE: Final = "Calibrate both sensors, please."

READINGS: Final = {"roof": "31.4", "cellar": "12.8"}
SLOW: Final = "cellar"  # whose calibration does not end


class SensorTool(msgspec.Struct, frozen=True):
    """A tool that takes the name of a sensor. *seconds* it takes for the slow one."""

    name: str
    about: str
    answer: str
    slow_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Its definition, as a request carries it."""
        sensor = {"type": "string", "enum": list(READINGS)}
        schema = {"type": "object", "properties": {"sensor": sensor}, "required": ["sensor"]}
        return {"name": self.name, "description": self.about, "input_schema": schema}

    async def call(self, input: object) -> str:  # noqa: A002 - as the SDK has it
        """Read or calibrate the sensor."""
        sensor = input.get("sensor") if isinstance(input, dict) else None
        if sensor not in READINGS:
            raise ValueError(f"there is no sensor {sensor!r}")
        await asyncio.sleep(self.slow_seconds if sensor == SLOW else 0)
        return f"{sensor}: {self.answer.format(READINGS[sensor])}"


def tools(*, slow_seconds: float = 0.0) -> list[SensorTool]:
    """What the station can do."""
    return [
        SensorTool("read_sensor", "The temperature at a sensor.", "{} degrees Celsius"),
        SensorTool("calibrate", "Calibrate a sensor. Takes a while.", "calibrated at {}", slow_seconds),
    ]


def model(body: dict[str, Any], _number: int) -> Reply:
    """What the scripted model answers: it depends on the conversation alone, so it goes on from any point of it."""
    asked, results = _turn(body["messages"])
    if asked == CALIBRATE:
        return _about_calibration(results)
    if asked == ASKS[0] and not results:
        return Reply(content=[thinks("Both sensors, so two calls."), says("I look at both."), *_each("read_sensor")])
    if asked == ASKS[0]:
        return Reply(content=f"On the roof {READINGS['roof']} °C, in the cellar {READINGS['cellar']} °C.")
    if asked == ASKS[1]:
        difference = float(READINGS["roof"]) - float(READINGS["cellar"])
        return Reply(content=[thinks("The roof minus the cellar."), says(f"{difference:.1f} degrees.")])
    return Reply(content=f"I can read and calibrate {' and '.join(READINGS)}.")


def _about_calibration(results: list[dict[str, Any]]) -> Reply:
    if not results:
        return Reply(content=[says("I calibrate both."), *_each("calibrate")])
    if any(result.get("is_error") for result in results):
        return Reply(content="One is calibrated. The other was interrupted, so I would look before I do it again.")
    return Reply(content="Both are calibrated.")


def _each(tool: str) -> list[Any]:
    return [calls(tool, {"sensor": sensor}) for sensor in READINGS]


def _turn(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What was asked last, and the tool results since."""
    asked = ""
    results: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "user":
            continue
        content = message["content"]
        for block in [says(content)] if isinstance(content, str) else content:
            if block["type"] == "text":
                asked, results = block["text"], []
            elif block["type"] == "tool_result":
                results.append(block)
    return asked, results
