"""Verdicts and numbers as files: JSON, CSV, Markdown, and the page (no torch)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlens.claims.statistics import Estimate
from flatlens.claims.verdict import Judged, Outcome
from flatlens.files.atomic import write_file, write_json
from flatlens.version import __version__


def plain(found: Judged) -> dict[str, Any]:
    """A verdict as plain data; what is not finite is None."""
    claim = found.claim
    first = found.outcomes[0].estimate if found.outcomes else None
    return {
        "claim": claim.name,
        "title": claim.title,
        "verdict": found.verdict,
        "why": found.why,
        "by_construction": found.forced,
        **_numbers(first),
        "nets": found.nets,
        "samples": found.samples,
        "units": list(claim.units),
        "parts": [_part(one) for one in found.outcomes],
        "source": claim.source,
        "reported": claim.reported,
        "question": claim.question,
        "protocol": dict(claim.protocol),
        "caveats": list(claim.caveats),
    }


def _numbers(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"value": None, "low": None, "high": None, "interval": None, "n": 0}
    value, low, high = (_finite(number) for number in found[:3])
    return {"value": value, "low": low, "high": high, "interval": None if low is None else [low, high], "n": found.n}


def _part(found: Outcome) -> dict[str, Any]:
    part = found.part
    region = None if part.region is None else [_finite(bound) for bound in part.region]
    statistic = {"kind": part.statistic.kind, "columns": list(part.statistic.columns), "given": part.statistic.given}
    return {
        "name": part.name,
        "says": part.says,
        "outcome": found.outcome,
        **_numbers(found.estimate),
        "each": [_finite(value) for value in found.nets],
        "region": region,
        "region_said": None if part.region is None else str(part.region),
        "statistic": statistic,
        "forced": part.forced,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(judged: Sequence[Judged], out: Path, *, full: bool) -> None:
    """Write all files of the verdicts."""
    from flatlens.report import claims_page  # drawn last: what measures needs no picture

    claims = [plain(found) for found in judged]
    told = {"schema_version": 1, "flatlens": __version__, "full": full, "claims": claims}
    write_json(out / "claims.json", told)
    write_file(out / "claims.csv", table_csv(claims).encode())
    write_file(out / "claims.md", table_markdown(claims).encode())
    write_file(out / "index.html", claims_page.page(told).encode())


def table_csv(claims: Sequence[dict[str, Any]]) -> str:
    """A row for each part of each claim."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(
        [
            "claim",
            "verdict",
            "by_construction",
            "part",
            "says",
            "outcome",
            "value",
            "low",
            "high",
            "n",
            "nets",
            "region",
        ]
    )
    for one in claims:
        for part in one["parts"] or [{}]:
            numbers = [part.get(key) for key in ("value", "low", "high", "n")]
            rows.writerow([
                one["claim"], one["verdict"], one["by_construction"], part.get("name"), part.get("says"),
                part.get("outcome"), *numbers, one["nets"], part.get("region_said"),
            ])  # fmt: skip
    return out.getvalue()


def table_markdown(claims: Sequence[dict[str, Any]]) -> str:
    """A row for each claim: its verdict and the number that decides."""
    lines = ["| claim | verdict | decided by | number | holds where | n |", "|---|---|---|---|---|---|"]
    for one in claims:
        first = one["parts"][0] if one["parts"] else None
        verdict = f"**{one['verdict']}**" + (" (by construction)" if one["by_construction"] else "")
        if first is None:
            lines.append(f"| {one['claim']} {one['title']} | {verdict} | {one['why']} | | | |")
            continue
        case, row = one["units"]
        many = f"{one['nets']} {case}{'s' if one['nets'] != 1 else ''}, {first['n']:,} {row}s"
        lines.append(
            f"| {one['claim']} {one['title']} | {verdict} | {first['says']} | {number(first)} | "
            f"{first['region_said'] or 'shown only'} | {many} |"
        )
    return "\n".join(lines) + "\n"


def head_markdown(claims: Sequence[dict[str, Any]]) -> str:
    """A row for each claim that was tried: its verdict and the number that decides, for a README."""
    lines = ["| claim | verdict | decided by | 95 % | holds where |", "|---|---|---|---|---|"]
    for one in claims:
        if one["parts"]:
            first = one["parts"][0]
            cells = (
                f"{one['claim']} {one['title']}",
                one["verdict"],
                first["says"],
                number(first),
                first["region_said"],
            )
            lines.append(f"| {' | '.join(cell or '' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def number(part: dict[str, Any]) -> str:
    """``0.96 [0.94, 0.98]``."""
    from flatlens.report import claims_page

    return claims_page.number(part)
