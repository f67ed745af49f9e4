"""What many tests share."""

from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "fundus.jpg"
"""The example photograph, 1411 x 1411 pixels."""
