"""What Ctrl-C means while a run is followed: detach, cancel, or ask which. Nothing is lost."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Self

from ramify.cli.display import Display
from ramify.cli.review_session import answer
from ramify.cli.terminal import note
from ramify.client import AsyncClient
from ramify.errors import RamifyError
from ramify.events import WatchDelta, WatchEvent, WatchSnapshot
from ramify.v1.review_pb2 import Review

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
    REVIEW = "review"


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
        self._reviews: list[Review] = []  #: to be asked about
        self._closed: set[str] = set()

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
        while (happening := await self._inbox.get()) is not _Happening.ENDED:
            if happening is _Happening.REVIEW:
                await self._answer_reviews()
                continue
            if happening is not _Happening.INTERRUPT:
                continue
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

    def review_opened(self, review: Review) -> None:
        """Ask the user about a review as soon as there is time for it."""
        self._reviews.append(review)
        self._inbox.put_nowait(_Happening.REVIEW)

    def review_closed(self, review_id: str) -> None:
        """Ask about a review no more: somebody has answered."""
        self._closed.add(review_id)
        self._inbox.put_nowait(_Happening.REVIEW)

    async def _answer_reviews(self) -> None:
        """Ask about what has opened; the run's end and Ctrl-C take the question away."""
        if not self._reviews:
            return
        self._display.pause()
        goes_on = True
        while self._reviews and goes_on:
            review = self._reviews.pop(0)
            if review.review_id not in self._closed:
                goes_on = await self._answer(review)
        if not goes_on:
            self._reviews.clear()
        self._display.resume()

    async def _answer(self, review: Review) -> bool:
        """Ask about one review; return whether to ask about others."""
        decided = asyncio.Event()  # what then closes the review is most likely this answer
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(answer(self._client, self._project_id, review, decided))
            while not asking.done():
                other = group.create_task(self._inbox.get())
                await asyncio.wait({asking, other}, return_when=asyncio.FIRST_COMPLETED)
                if not other.done():
                    other.cancel()
                elif other.result() is not _Happening.REVIEW:
                    self._inbox.put_nowait(other.result())
                    asking.cancel()
                    sys.stderr.write("\n")
                    return False
                elif review.review_id in self._closed and not (decided.is_set() or asking.done()):
                    asking.cancel()
                    note(f"\n{review.review_id} was answered elsewhere")
                    return True
        return asking.result()

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


class Asking:
    """A display that also tells an attendant of reviews as they open and close."""

    def __init__(self, display: Display, attendant: Attendant) -> None:
        self._display = display
        self._attendant = attendant

    def show(self, event: WatchEvent) -> None:
        """Show one event, and report the reviews that it opens or closes."""
        self._display.show(event)
        if isinstance(event, WatchSnapshot):
            for review in event.snapshot.reviews:
                self._attendant.review_opened(review)
        elif isinstance(event, WatchDelta):
            for change in event.delta.changes:
                if change.review.HasField("review"):
                    self._attendant.review_opened(change.review.review)
                elif change.review.patch.HasField("state"):
                    self._attendant.review_closed(change.review.review_id)

    async def animate(self) -> None:
        """See `Display`."""
        await self._display.animate()

    def pause(self) -> None:
        """See `Display`."""
        self._display.pause()

    def resume(self) -> None:
        """See `Display`."""
        self._display.resume()

    def close(self) -> None:
        """See `Display`."""
        self._display.close()
