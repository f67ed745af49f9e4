"""What many tests share."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "fundus.jpg"
"""The example photograph, 1411 x 1411 pixels."""


LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from vesselseg.cli import main
sys.exit(main())
"""
"""The command in Python, which Ctrl-C reaches even if this process ignores it, as in a background.
"""


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until a condition holds; return what it says."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return answer
