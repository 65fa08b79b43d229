"""Standard output and error that cannot fail: what a program says on the way must not change how it ends."""

import io
import os
import select
import sys


class _Sink(io.FileIO):
    """A file descriptor; what it does not take is dropped: by a closed pipe, a full disk, a terminal that is gone."""

    def write(self, data: object) -> int:
        try:
            while (written := super().write(data)) is None:  # type: ignore[arg-type]  # set to not wait, and full
                select.select([], [self], [])
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]
        return written


def keep_output_from_failing() -> None:
    """Replaces sys.stdout and sys.stderr by streams on the same descriptors whose writes never raise.

    Characters that their encoding lacks are written as \\u... A descriptor that is closed is opened on nothing, so that
    no file of the program's gets its number and, with it, what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)  # None where the descriptor was closed
        encoding = before.encoding if before else "utf-8"
        buffer = io.BufferedWriter(_Sink(descriptor, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True))
