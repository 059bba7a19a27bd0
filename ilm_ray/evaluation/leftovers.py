"""Files that a killed attempt left half-written: OpenCompass writes in place and takes any file that is there for
whole."""

import json
from pathlib import Path


def drop_torn(path: Path) -> bool:
    """Remove a JSON document that cannot be read to its end; whether it was removed."""
    if not path.is_file():
        return False
    try:
        json.loads(path.read_bytes())
    except ValueError:
        path.unlink()
        return True
    return False
