"""How long does `import session` take, beside what it cannot do without? And `import eventstore`?

Bar for `import session`: at most 1.3x importing asyncio, msgspec and lmdb. It loads storages and clients when they are
used, so it can take less.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.report import run_alone

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "how long does `import session` take?"
ROOT = Path(__file__).parents[1]
SCRIPT = """
import time
began = time.perf_counter()
import {modules}
seconds = time.perf_counter() - began
import sys
print(seconds, *sorted({{"asyncio", "msgspec", "lmdb"}} & sys.modules.keys()))
"""
REQUIRED = "asyncio, msgspec, lmdb"


def run(size: Size) -> Result:
    """Each import in a process of its own; starting the interpreter is not counted; the first round compiles."""
    count = size.pick(full=5, small=1)
    loaded: dict[str, str] = {}
    with size.scratch() as compiled:
        contestants = [
            Contestant(f"import {modules}", "-", _imports(modules, count, compiled, loaded))
            for modules in (REQUIRED, "eventstore", "session")
        ]
        series = interleave(size, contestants)
    required, log, sessions = series.values()
    findings = [
        Finding(f"session / {REQUIRED}", ratio(sessions, required), at_most=1.3),
        Finding(f"eventstore / {REQUIRED}", ratio(log, required)),
    ]
    del loaded["import session"]  # it loads none of them before it is used
    return Result(QUESTION, list(series.values()), findings, {"what both have loaded": loaded})


def _imports(modules: str, count: int, compiled: Path, loaded: dict[str, str]) -> Callable[[int], float]:
    script = SCRIPT.format(modules=modules)
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(compiled), "PYTHONDONTWRITEBYTECODE": ""}

    def play(_: int) -> float:
        seconds = []
        for _ in range(count):
            printed = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, env=environment, text=True)
            figure, *names = printed.split()
            seconds.append(float(figure))
            loaded[f"import {modules}"] = content_hash(name.encode() for name in names)
        return median(seconds)

    return play


if __name__ == "__main__":
    run_alone(__file__, run)
