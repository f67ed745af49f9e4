"""stub"""

from importlib import resources
from pathlib import Path


def download(record, **k):
    return Path(str(resources.files("vesselseg"))) / "embedded" / record.filename
