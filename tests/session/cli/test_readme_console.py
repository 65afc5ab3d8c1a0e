"""The console blocks of the README are what the commands print, at a terminal, on the store that the demo leaves."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pexpect  # type: ignore[import-untyped]
import pytest

from session.demo import STEPS, staged

ROOT = Path(__file__).parents[3]
ALL = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
BLOCKS = [block for block in ALL if "demo-station" in block or "example-flaky-test" in block]  # sessions of the demo
DRAWN = re.compile("\x1b\\[[0-9;]*m")
ID = re.compile("sess_[A-Za-z0-9]{16}")  # made up anew each time


def at_terminal(line: str, store: Path, directory: Path) -> list[str]:
    refold = shlex.join([sys.executable, "-m", "session"])
    environment = {**os.environ, "REFOLD_STORE": str(store), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    child = pexpect.spawn(
        "sh",
        ["-c", f'refold() {{ {refold} "$@"; }} 2>/dev/null; {line}'],
        env=environment,
        cwd=str(directory),
        dimensions=(50, 400),
        encoding="utf-8",
        timeout=120,
    )
    printed = DRAWN.sub("", child.read().replace("\r\n", "\n"))
    child.close()
    return printed.rstrip("\n").split("\n")


def is_shown(shown: list[str], printed: list[str]) -> bool:
    """Whether *shown* is the beginning of *printed*, with "..." for the end of a line, or of everything."""
    if shown and shown[-1] == "...":
        shown, printed = shown[:-1], printed[: len(shown) - 1]
    return len(shown) == len(printed) and all(
        real.startswith(line[:-3]) if line.endswith("...") else ID.sub("ID", line) == ID.sub("ID", real)
        for line, real in zip(shown, printed, strict=True)
    )


@pytest.mark.slow
def test_the_console_blocks_are_what_is_printed(tmp_path: Path) -> None:
    with staged(keep=tmp_path / "kept") as stage:
        for step in STEPS:
            list(step.play(stage))
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *shown = part.rstrip("\n").split("\n")
            printed = at_terminal(line, tmp_path / "kept" / "store", tmp_path)
            assert is_shown(shown or [""], printed), (line, printed)
