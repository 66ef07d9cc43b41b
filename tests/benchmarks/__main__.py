"""Run the benchmarks (all, or those named), print a table, and write bench.json."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.timing import RUNS, environment

GROUPS = ("head", "positions", "layers", "recorded", "sweeps", "memory", "page", "defences", "language", "gpu")


def main(names: list[str]) -> None:
    """Measure the groups called ``names``."""
    console = Console()
    table = Table("work", "seen", "to reach", "medians", title=f"medians of {RUNS} interleaved runs, ratios in one run")
    found = []
    for name in names or GROUPS:
        for row in import_module(f"tests.benchmarks.{name}").rows():
            found.append(row._asdict())
            table.add_row(row.work, f"{row.value:.3g} {row.unit}", row.goal, row.detail)
            console.print(f"{row.work}: {row.value:.3g} {row.unit} (to reach: {row.goal})", style="dim")
    console.print(table)
    Path("bench.json").write_text(json.dumps({"environment": environment(), "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
