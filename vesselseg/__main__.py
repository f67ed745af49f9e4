"""``python -m vesselseg`` is the ``vesselseg`` command."""

import sys

from .cli import main

sys.exit(main())
