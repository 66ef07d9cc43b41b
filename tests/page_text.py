"""What a written page holds."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any


def embedded(text: str) -> dict[str, Any]:
    """The data inside the page of runs."""
    found = re.search(r'id="flatlens-data">(.*?)</script>', text, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return data
