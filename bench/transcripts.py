"""How fast are transcripts of Claude Code imported, and imported again?

Bars: at least 20 MB of transcript per second on one core (processor time, all threads), also where every tenth ask is
taken back and asked anew, so that the conversation goes on in a fork of a fork of a fork; 2,000 files that did not
change are passed over in at most 5 s; the memory it takes does not grow with the bytes of a file (a few hundred bytes
for each of its lines).

The transcript is made here: per turn an ask, a response in three lines (thinking, text, a tool call), and a tool's
result of 3 to 30 KB that stands in its line twice, as Claude Code writes it.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave
from bench.report import run_alone
from session import BlockingEventSessionStorage
from session.claude_code import TranscriptImport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.harness import Hashes

QUESTION = "how fast are transcripts of Claude Code imported?"
TURNS_UNTIL_REWIND = 10
WORDS = 'def total(self):\n    return "sum: %d" % sum(self.values)  # line 17 of /srv/app/totals.py\n'
ALONE = """
import resource, sys
from pathlib import Path
from session import BlockingEventSessionStorage
from session.claude_code import TranscriptImport
with BlockingEventSessionStorage(sys.argv[1]) as storage:
    list(TranscriptImport(storage, Path(sys.argv[2])).run())
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
private = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
print(1024 * (private or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0])
"""


def run(size: Size) -> Result:
    """A large file into a new store each round; then many small ones, once more."""
    large, files = size.pick(full=60_000_000, small=200_000), size.pick(full=2_000, small=20)
    hashes: Hashes = {"one file": {}, "one file with rewinds": {}}
    with size.scratch() as directory:
        one, rewound, many = directory / "one", directory / "rewound", directory / "many"
        written = write_transcript(one, 1, large)
        written_rewound = write_transcript(rewound, 1, large, rewinds=True)
        for number in range(files):
            write_transcript(many, number + 2, 20_000)
        with BlockingEventSessionStorage(directory / "many.refold") as store:
            list(TranscriptImport(store, many).run())
        contestants = [
            Contestant("import, processor time", "disk", _import(directory / "a", one, hashes["one file"]), "s"),
            Contestant(
                "import with rewinds, processor time",
                "disk",
                _import(directory / "b", rewound, hashes["one file with rewinds"]),
                "s",
            ),
            Contestant("import again, nothing new", "disk", _again(directory / "many.refold", many), "s"),
        ]
        first, forked, again = interleave(size, contestants).values()
        grown = [
            _memory(directory / f"memory{times}", write_one(directory / f"grown{times}", large * times))
            for times in (1, 3)
        ]
    return Result(
        QUESTION,
        [first, forked, again],
        [
            Finding("MB of transcript per second of one core", written / first.median / 1e6, "1/s", at_least=20.0),
            Finding("the same, with rewinds", written_rewound / forked.median / 1e6, "1/s", at_least=20.0),
            Finding(f"{files:,} unchanged files", again.median, "s", at_most=5.0),
            Finding("more private memory for three times the bytes", grown[1] / grown[0], "x", at_most=2.0),
        ],
        hashes,
    )


def write_transcript(folder: Path, number: int, size: int, *, rewinds: bool = False) -> int:
    """A transcript of about *size* bytes; returns how many they are."""
    folder.mkdir(exist_ok=True)
    name = str(uuid.UUID(int=number << 64, version=4))
    written = 0
    with (folder / f"{name}.jsonl").open("wb") as file:
        for line in _lines(name, random.Random(number), rewinds=rewinds):
            written += file.write(line)
            if written >= size:
                return written
    return written


def write_one(folder: Path, size: int) -> Path:
    """A folder with one transcript."""
    write_transcript(folder, 1, size)
    return folder


def _lines(name: str, chance: random.Random, *, rewinds: bool) -> Iterator[bytes]:
    parent, before, count = None, None, 0

    def line(kind: str, content: Any, **more: Any) -> bytes:  # noqa: ANN401 - any JSON value
        nonlocal parent, count
        count += 1
        own = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}/{count}"))
        about = {"parentUuid": parent, "isSidechain": False, "cwd": "/srv/app", "sessionId": name, "version": "2.0.14"}
        said = {"role": kind, "content": content, **(_response(count) if kind == "assistant" else {})}
        parent = own
        whole = {**about, "type": kind, "message": said, "uuid": own, "timestamp": "2026-05-01T10:00:00.000Z", **more}
        return json.dumps(whole, separators=(",", ":")).encode() + b"\n"

    for turn in itertools.count(1):
        if rewinds and turn % TURNS_UNTIL_REWIND == 0:
            parent = before
        before, call = parent, f"toolu_{count}"
        output = (WORDS * 400)[: chance.randrange(3_000, 30_000)]
        yield line("user", WORDS * 2)
        yield line("assistant", [{"type": "thinking", "thinking": WORDS * 5, "signature": "c2ln" * 80}])
        yield line("assistant", [{"type": "text", "text": WORDS * 10}])
        yield line("assistant", [{"type": "tool_use", "id": call, "name": "Bash", "input": {"command": "ls"}}])
        result = {"type": "tool_result", "tool_use_id": call, "content": output}
        yield line("user", [result], toolUseResult={"stdout": output, "stderr": ""})


def _response(count: int) -> dict[str, Any]:
    model = {"id": f"msg_{(count - 2) // 5}", "type": "message", "model": "claude-sonnet-4-5-20250929"}
    return {**model, "usage": {"input_tokens": 1_000, "output_tokens": 300, "cache_read_input_tokens": 20_000}}


def _import(directory: Path, source: Path, hashes: dict[str, str]) -> Callable[[int], float]:
    directory.mkdir()

    def play(number: int) -> float:
        with BlockingEventSessionStorage(directory / f"store{number}.refold") as storage:
            began = time.process_time()
            list(TranscriptImport(storage, source).run())
            seconds = time.process_time() - began
            states = [storage.load(session_id) for session_id in sorted(storage.list())]
            assert states, "nothing was imported"
            hashes[f"round {number}"] = content_hash(raw for state in states if state for raw in state.messages.raw)
        return seconds

    return play


def _again(store: Path, source: Path) -> Callable[[int], float]:
    def play(_: int) -> float:
        with BlockingEventSessionStorage(store) as storage:
            began = time.perf_counter()
            list(TranscriptImport(storage, source).run())
            return time.perf_counter() - began

    return play


def _memory(store: Path, source: Path) -> float:
    """Private bytes of a process that has imported *source*."""
    return float(subprocess.check_output([sys.executable, "-c", ALONE, str(store), str(source)], text=True))


if __name__ == "__main__":
    run_alone(__file__, run)
