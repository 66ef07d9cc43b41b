"""Puts what `flatlens reproduce all --full --out FOLDER` found into the documents: the tables are made, not typed.

    python data/results/claims.py FOLDER [FOLDER …]

of which later ones replace the claims that were tried in them (C5, on networks that `--model` named). It writes
data/results/claims.json and claims.csv, and between the marks ``<!-- claims -->`` and ``<!-- /claims -->`` the
table of docs/results/claims.md and its head in the README.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from flatlens.claims import records

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_suffix(".json")
TABLES = {ROOT / "docs" / "results" / "claims.md": records.table_markdown, ROOT / "README.md": records.head_markdown}
"""Document -> what its table is made by."""


def written(text: str, table: str) -> str:
    """A document with its table between the marks."""
    marks = re.compile(r"(<!-- claims -->\n).*?(<!-- /claims -->)", re.DOTALL)
    return marks.sub(lambda found: found[1] + table + found[2], text)


def main(first: Path, *others: Path) -> None:
    """Take over the figures of a folder, and of further ones for claims that were tried in them."""
    told = json.loads((first / "claims.json").read_text(encoding="utf-8"))
    found = {one["claim"]: one for one in told["claims"]}
    for folder in others:
        found |= {one["claim"]: one for one in json.loads((folder / "claims.json").read_text("utf-8"))["claims"]}
    if not told["full"]:
        raise SystemExit(f"'{first}' holds no figures of --full")
    claims = list(found.values())
    KEPT.write_text(json.dumps(told | {"claims": claims}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    KEPT.with_suffix(".csv").write_text(records.table_csv(claims), encoding="utf-8")
    for file, table in TABLES.items():
        file.write_text(written(file.read_text(encoding="utf-8"), table(claims)), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
