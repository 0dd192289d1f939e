"""Files that a sub-command writes or reads, and how far it has come."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ramify.cli.exits import CliError, ExitCode

Advance = Callable[[float, float], None]
_PIECE_BYTES = 512 << 10


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is whole and on disk; never replace one."""
    if path.exists():
        raise CliError(f"{path} exists already", "choose another name", ExitCode.REFUSED)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link does not replace what has come there meanwhile.
        os.link(unfinished, path)
    except FileExistsError:
        raise CliError(f"{path} exists already", "choose another name", ExitCode.REFUSED) from None
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}", "choose another place") from None
    finally:
        with suppress(OSError):  # it was never there, or its disk takes no change any more
            unfinished.unlink()


def read_pieces(path: Path, advance: Advance) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    try:
        size = path.stat().st_size
        done = 0
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
                done += len(piece)
                advance(done, size)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}", "", ExitCode.USAGE) from None


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show a bar on stderr while something is transferred, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from ramify.cli.terminal import err

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
