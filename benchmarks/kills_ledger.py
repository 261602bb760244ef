"""The world outside of the killed process: what tools did, what models were asked, who was told.

    python -m benchmarks.kills_ledger SOCKET FILE

A process of its own that nobody kills. It answers when it has written the line, so what a tool
has been told is in FILE. It is the service behind the tools, too: a key that it knows takes effect
once, and it can be asked what a key did. Lines in and out are JSON:

    {"do": "run", "key", "tool", "session", "n"}      {"first": true | false}
    {"do": "find", "key"}                             {"found": true | false}
    {"do": "asked", "session", "turn", "body"}        {}
    {"do": "begin" | "told", "session"}               {}
    {"do": "where"}                                   {"open": [sessions begun, not told]}
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


class Ledger:
    """Everything that happened, in the order in which it did."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8", buffering=1)
        self._keys: set[str] = set()
        self._open: dict[int, None] = {}
        self._begun = 0

    def take(self, line: dict[str, Any]) -> dict[str, Any]:
        """Write a line down and answer it."""
        match line["do"]:
            case "find":
                return {"found": line["key"] in self._keys}
            case "where":
                return {"open": list(self._open), "begun": self._begun}
            case "begin":
                line["session"] = self._begun
                self._open[self._begun] = None
                self._begun += 1
            case "told":
                self._open.pop(line["session"], None)
        first = line["do"] == "run" and line["key"] not in self._keys
        if first:
            self._keys.add(line["key"])
        self._file.write(json.dumps(line) + "\n")
        return {"first": first, "session": line.get("session")}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it is gone."""
        try:
            while asked := await reader.readline():
                if not asked.endswith(b"\n"):
                    break  # it died in mid-sentence
                writer.write(json.dumps(self.take(json.loads(asked))).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            writer.close()


async def main(socket: str, file: str) -> None:
    ledger = Ledger(Path(file))
    server = await asyncio.start_unix_server(ledger.serve, socket, limit=2**22)
    print("ready", flush=True)
    # Until the driver goes, however it goes.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
