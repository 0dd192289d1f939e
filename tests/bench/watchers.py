"""Many watchers in a process of their own, so that reading costs the producer nothing.

Prints a line of JSON when all watches are open, and one with what they saw at the end. Of each
message only the revision that it promises is read: intervals are contiguous (the tests prove it).
A watcher that is told to stop reads its first message and then nothing until a line arrives on
standard input.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc.aio
import uvloop

from ramify.v1 import state_service_pb2 as pb

_PATH = "/ramify.v1.StateService/WatchProject"
_CHANNEL_WATCHES = 100
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def promised(message: bytes) -> int:
    """Return the `resume_revision` of an encoded response, which comes first; 0 if none."""
    if not message or message[0] != pb.WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER << 3:
        return 0
    number = shift = 0
    for byte in message[1:11]:
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return number


class Watchers:
    """Opens the watches and notes when each revision arrived."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._request = pb.WatchProjectRequest(
            project_id=options.project,
            head=True,
            mode=pb.WatchMode.Value(f"WATCH_MODE_{options.mode}"),
            accept_encodings=["zstd"] if options.zstd else [],
        ).SerializeToString()
        self._waiting = options.watchers + options.stopped
        self._opened = asyncio.Event()
        self._go_on = asyncio.Event()
        #: (monotonic time, first revision, last revision) of each message with changes
        self.seen = array.array("d")
        self.received_bytes = 0
        self.messages = 0

    async def run(self) -> dict[str, float]:
        """Watch until everybody has the last revision."""
        options = self._options
        count = options.watchers + options.stopped
        channels = [
            grpc.aio.insecure_channel(
                options.address, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            for _ in range(-(-count // _CHANNEL_WATCHES))
        ]
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                channel = channels[number // _CHANNEL_WATCHES]
                stopped = number >= options.watchers
                tasks.create_task(self._watch(channel, stopped))
            await self._opened.wait()
            sys.stdout.write('{"opened": true}\n')
            sys.stdout.flush()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, sys.stdin.readline)
            caught_up_from = time.monotonic()
            self._go_on.set()
        for channel in channels:
            await channel.close()
        return {
            "messages": self.messages,
            "received_bytes": self.received_bytes,
            "catch_up_seconds": time.monotonic() - caught_up_from if options.stopped else 0.0,
        }

    async def _watch(self, channel: grpc.aio.Channel, stopped: bool) -> None:
        method: Any = channel.unary_stream(_PATH)
        call = method(self._request)
        created = pb.WatchProjectResponse.FromString(await call.read()).created
        at, last = created.head_revision, self._options.last
        self._waiting -= 1
        if not self._waiting:
            self._opened.set()
        if stopped:
            await self._go_on.wait()
        while at < last:
            message = await call.read()
            now = time.monotonic()
            revision = promised(message)
            if revision > at:
                if not stopped:
                    self.seen.extend((now, at + 1, revision))
                at = revision
            self.messages += 1
            self.received_bytes += len(message)
        call.cancel()


def main() -> int:
    """Parse the flags, watch, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--project", default="p")
    parser.add_argument("--watchers", type=int, default=1)
    parser.add_argument("--stopped", type=int, default=0)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--mode", default="DIFF")
    parser.add_argument("--zstd", action="store_true")
    parser.add_argument("--seen", type=Path, required=True, help="file for the times")
    options = parser.parse_args()

    async def run() -> None:
        watchers = Watchers(options)
        found = await watchers.run()
        with options.seen.open("wb") as file:
            watchers.seen.tofile(file)
        sys.stdout.write(json.dumps(found) + "\n")

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
