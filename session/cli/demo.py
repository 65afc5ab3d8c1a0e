"""`refold demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from session.cli._failures import CommandError
from session.cli._options import command
from session.cli._output import output

if TYPE_CHECKING:
    from session.cli._output import Output
    from session.demo import Stage, Step


class DemoStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the demo: what it said, and what it measured. Times are seconds, sizes bytes."""

    step: str
    title: str
    seconds: float
    lines: list[str]
    figures: dict[str, float]


@command("demo", example="refold demo\nrefold demo --keep ./demo", prints=DemoStep)
@click.option("--live", is_flag=True, help="Ask the real API, with your key and harmless tools. Costs a few cents.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep the demo's store, in a new folder.")
def demo(*, live: bool, keep: Path | None) -> None:
    """The whole idea, in under a minute: record, survive, fork, look back, verify, import.

    It plays in a temporary store, without a network or a key.
    """
    if live and not _has_key():
        raise CommandError("--live needs a key: set ANTHROPIC_API_KEY")
    if keep is not None and keep.exists():
        raise CommandError(f"{keep} is there already: --keep makes a new folder")
    shown, began = output(), time.perf_counter()
    shown.line("Real: the anthropic client, the sessions, the log on this disk, the killed process, the damaged file.")
    answers = "Real, too" if live else "Simulated"
    shown.line(f"{answers}: the answers of the model. Every figure is measured now, on this machine.")
    from session.demo import STEPS, staged  # noqa: PLC0415 - takes longer than what was said so far

    with staged(live=live, keep=keep) as stage:
        for number, step in enumerate(STEPS, 1):
            _play(step, number, stage, shown)
    shown.line()
    shown.line(f"All of it in {time.perf_counter() - began:.1f} s.", style="bold")
    _say_next(shown, stage, kept=keep is not None)


def _has_key() -> bool:
    from session.sdk import environment_client  # noqa: PLC0415 - takes longer than everything else

    return environment_client() is not None


def _play(step: Step, number: int, stage: Stage, shown: Output) -> None:
    shown.line()
    shown.line(f"{number}. {step.title}", style="bold")
    stage.figures = {}
    lines, began = [], time.perf_counter()
    for line in step.play(stage):
        lines.append(line)
        shown.line(f"   {line}")
    if shown.json:
        shown.object(DemoStep(step.name, step.title, time.perf_counter() - began, lines, stage.figures))
    sys.stdout.flush()


def _say_next(shown: Output, stage: Stage, *, kept: bool) -> None:
    """Commands that work as they stand."""
    from session.demo.steps import CONVERSATIONS, LIVE_SESSION  # noqa: PLC0415 - loaded by now

    refold = _called_as()
    there = f"{refold} --store {stage.store}" if kept else f"{refold} --store ./demo/store"
    shown.line("Try next:", style="bold")
    if not kept:
        shown.line(f"  {refold} demo --keep ./demo" + " " * 8 + "the same, and its store stays")
    shown.line(f"  {there} list --limit 5")
    shown.line(f"  {there} show {LIVE_SESSION}@turn:1")
    shown.line(f"  {refold} import {CONVERSATIONS}" + " " * 4 + "or files of your own: see `import --help`")
    shown.line(f"  {refold} list")
    shown.line(f"  ANTHROPIC_API_KEY=... {refold} chat")


def _called_as() -> str:
    """How this program was called, so that what is shown can be typed."""
    name = sys.argv[0]
    return name if Path(name).name == "refold" else "python -m session"
