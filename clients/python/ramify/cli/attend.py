"""What Ctrl-C means while a run is followed: detach, cancel, or ask which. Nothing is lost."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Self

from ramify.cli.display import Display
from ramify.cli.terminal import note
from ramify.client import AsyncClient
from ramify.errors import RamifyError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUESTION = "\nThe run goes on. [d]etach (default), [c]ancel it, or [k]eep watching? "


class OnInterrupt(StrEnum):
    """What the first Ctrl-C does."""

    ASK = "ask"
    DETACH = "detach"
    CANCEL = "cancel"


class _Happening(StrEnum):
    ENDED = "ended"
    INTERRUPT = "interrupt"
    ANSWER = "answer"


class Attendant:
    """Waits for the end of a followed run or for the user to leave it.

    Signals, answers and the end arrive in one inbox, in the order in which they happen. The run
    is never touched unless the user says so, and the watch goes on while the user thinks. After
    the first Ctrl-C, or once the run is being cancelled, the next one detaches at once.

    A context manager: signals are taken from its beginning on, even before `attend`.
    """

    def __init__(
        self,
        client: AsyncClient,
        project_id: str,
        display: Display,
        on_interrupt: OnInterrupt,
        interactive: bool,
    ) -> None:
        self._client = client
        self._project_id = project_id
        self._display = display
        # Without a terminal there is nobody to ask.
        ask_in_vain = on_interrupt is OnInterrupt.ASK and not interactive
        self._on_interrupt = OnInterrupt.DETACH if ask_in_vain else on_interrupt
        self._inbox: asyncio.Queue[_Happening] = asyncio.Queue()

    def __enter__(self) -> Self:
        """Take SIGINT and SIGTERM; needs a running loop."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(
                number, self._inbox.put_nowait, _Happening.INTERRUPT
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    async def attend(self, following: Coroutine[object, object, None]) -> bool:
        """Run `following` to its end; return False if the user has detached before."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(following, name="follow")
            task.add_done_callback(lambda _: self._inbox.put_nowait(_Happening.ENDED))
            ended = await self._until_left()
            task.cancel()
        return ended

    async def _until_left(self) -> bool:
        wish = self._on_interrupt
        while await self._inbox.get() is not _Happening.ENDED:
            if wish is OnInterrupt.ASK:
                answer = await self._ask()
                if answer == "ended":
                    break
                if answer == "keep":
                    continue
                wish = OnInterrupt(answer)
            if wish is OnInterrupt.DETACH:
                return False
            await self._cancel()
            wish = OnInterrupt.DETACH  # the next Ctrl-C
        return True

    async def _ask(self) -> str:
        """Return `detach`, `cancel`, `keep`, or `ended` if the run ended meanwhile."""
        self._display.pause()
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, self._inbox.put_nowait, _Happening.ANSWER)
        try:
            happening = await self._inbox.get()
        finally:
            loop.remove_reader(sys.stdin)
        if happening is not _Happening.ANSWER:
            sys.stderr.write("\n")
            return "ended" if happening is _Happening.ENDED else "detach"
        # A terminal hands over whole lines, so this does not block.
        answer = sys.stdin.readline().strip().lower()
        if answer.startswith("k"):
            self._display.resume()
            return "keep"
        return "cancel" if answer.startswith("c") else "detach"

    async def _cancel(self) -> None:
        note("cancelling; Ctrl-C again detaches")
        self._display.resume()
        try:
            await self._client.cancel_project(self._project_id, reason="Ctrl-C in ramify run")
        except RamifyError as error:
            note(f"not cancelled: {error.message}; still following, Ctrl-C detaches")
