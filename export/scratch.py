"""The hidden folder beside a bundle in which the bundle is made: held while it is needed, then gone.

A process that is killed, or a power cut, leaves it behind with gigabytes in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path

NEW, OLD = "new", "old"
"""The bundle that is being made, and the one whose place it takes."""


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out` that holds an empty NEW; OSError where none can be made there.

    What exports to `out` that were killed have left is removed before.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.export-"
    for folder in out.parent.glob(f"{escape(prefix)}????????"):
        with suppress(OSError), _held(folder):  # another export's, or gone meanwhile
            _remove_abandoned(folder)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as name, ExitStack() as stack:
        folder = Path(name)
        with suppress(OSError):  # where folders cannot be held, none is ever removed
            stack.enter_context(_held(folder))
        (folder / NEW).mkdir()
        yield folder


def _remove_abandoned(folder: Path) -> None:
    """Delete what holds one bundle only: of both, neither may have been in its place at the end.

    An empty folder may be another export's that is about to hold it.
    """
    if [path.name for path in folder.iterdir()] in ([NEW], [OLD]):
        shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Locked until the process ends, however it ends; BlockingIOError where another one has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    """Have a file, or the list of a folder's files, on the disk before anything leans on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # of folders, some network file systems cannot
            raise
    finally:
        os.close(descriptor)
