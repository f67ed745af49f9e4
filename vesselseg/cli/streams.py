"""Standard streams that end no run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from ..errors import OutputError


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Print to standard output and error whatever the characters, and after a pipe is closed.

    A process without a console, whose streams are None, prints nothing.
    """
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        out = _Lasting(sys.stdout or nowhere, "Standard output")
        err = _Lasting(sys.stderr or nowhere, "Standard error")
        with (
            contextlib.redirect_stdout(cast(TextIO, out)),
            contextlib.redirect_stderr(cast(TextIO, err)),
        ):
            yield


class _Lasting:
    """A text stream; characters that it cannot take are escaped.

    When its reader has gone, as that of ``| head`` has, the rest goes nowhere.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with self._ending():
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._ending():
            self._stream.flush()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is buffered goes there as well, when Python ends.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self._stream.fileno())
        except OSError as error:
            raise OutputError(f"{self._name} cannot be written: {error.strerror}.") from error
