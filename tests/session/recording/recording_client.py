"""A recorded program that is killed while it reads. It says on its standard output what it has seen.

Importing takes most of a short life, so one process imports everything and forks a program for each line of its
standard input: `path session_id port`. Nothing is open when it forks.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from anthropic import Anthropic

from session.recording import Recorder


def see(what: str, value: Any = None) -> None:
    os.write(1, json.dumps([what, value]).encode() + b"\n")


def converse(path: str, session_id: str, port: int) -> None:
    history: list[Any] = []
    with Recorder(path, session=session_id) as recorder:
        client = Anthropic(api_key="k", base_url=f"http://127.0.0.1:{port}", max_retries=0, middleware=[recorder])
        for number in range(3):
            history.append({"role": "user", "content": f"Ask {number}"})
            with client.messages.stream(model="claude-sonnet-5-5", max_tokens=200, messages=history) as stream:
                for event in stream:
                    if event.type == "content_block_stop":
                        see("block", event.content_block.to_dict())
                    elif event.type == "message_stop":
                        see("message", event.message.id)
                history.append({"role": "assistant", "content": stream.get_final_message().content})


def main() -> None:
    see("ready")
    for line in sys.stdin:
        path, session_id, port = line.split()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                converse(path, session_id, int(port))
                status = 0
            finally:
                os._exit(status)
        see("began", pid)
        _, status = os.waitpid(pid, 0)
        see("ended", status)


if __name__ == "__main__":
    main()
