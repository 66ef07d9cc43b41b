"""Claims -> one HTML file: a row a claim with its verdict and deciding number; each opens to its parts and caveats.

It has no script: it stands as it is in any browser, and in whatever theme the reader prefers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flatlens.report import html_file
from flatlens.report.roles import colours, styles
from flatlens.version import __version__

KIND = "of-claims"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MARKS = {"reproduced": "●", "partly": "◐", "inconclusive": "○", "not reproduced": "✕", "not run": "–"}
"""Before each verdict, for readers who do not see its colour."""
WORDS = {"holds": "holds", "fails": "does not hold", "open": "open", "shown": "shown only"}
WIDTH, HEIGHT, SIDE = 220, 26, 6
"""Of the picture of a number, in px."""


def page(told: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        told: what ``claims.json`` holds.
    """
    claims = told["claims"]
    scope = "networks trained from seeds" if told["full"] else "the shipped networks, or those that were named"
    body = (
        '<a class="skip" href="#claims">Skip to the claims</a>\n<header class="bar">'
        '<div class="brand">' + html_file.HOME + '</div><p class="what">Claims of the papers, tried</p></header>\n'
        f'<main><section class="lead" aria-label="Result"><div><h1>{_sentence(claims)}</h1>'
        f"<p>On {scope}. A part holds where its 95 % interval lies wholly inside the region that was fixed before; a "
        "verdict follows from the parts by rule. Over networks the interval is Student’s t on their own values.</p>"
        f'</div></section><section id="claims" aria-label="Claims">{"".join(_claim(one) for one in claims)}</section>'
        f"</main>\n<footer>flatlens {escape(__version__)}: this file needs no network. The same in claims.json, "
        "claims.csv and claims.md; the samples of every network in cells/.</footer>\n"
    )
    return html_file.shell(
        None,
        title="Claims · flatlens",
        css=_themes() + "\n" + html_file.asset("shell.css", "claims.css"),
        kind=KIND,
        policy=POLICY,
        body=body,
    )


def _themes() -> str:
    """The colours of both themes; which one is the reader's own choice."""
    dark = " ".join(f"--{name}: {value};" for name, value in colours()["dark"].items())
    return f"{styles()}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} color-scheme: dark; }} }}"


def _sentence(claims: Sequence[Mapping[str, Any]]) -> str:
    found = Counter(one["verdict"] for one in claims)
    said = [f"{found[verdict]} {verdict}" for verdict in MARKS if found[verdict]]
    many = "One claim" if len(claims) == 1 else f"{len(claims)} claims"
    return escape(f"{many}: {', '.join(said)}.")


def _claim(one: Mapping[str, Any]) -> str:
    first = one["parts"][0] if one["parts"] else None
    forced = ' <span class="pill">by construction</span>' if one["by_construction"] else ""
    verdict = f'<span class="verdict" data-verdict="{escape(one["verdict"])}">{MARKS[one["verdict"]]} '
    verdict += f"{escape(one['verdict'])}</span>{forced}"
    decisive = (
        f'<span class="why">{escape(one["why"])}</span>'
        if first is None
        else f'<span class="number">{escape(number(first))}</span> <span class="why">{escape(first["says"])}; '
        f"{escape(_many(one, first))}</span>"
    )
    return (
        f'<details class="card claim" id="{escape(one["claim"])}"><summary><span class="name">{escape(one["claim"])}'
        f'</span><span class="title">{escape(one["title"])}</span><span class="said">{verdict}</span>'
        f'<span class="decisive">{decisive}</span></summary>{_inside(one)}</details>'
    )


def _many(one: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    case = one["units"][0]
    nets = f"1 {case}" if one["nets"] == 1 else f"{one['nets']} {case}s"
    return f"{nets}, n = {part['n']:,}"


def _inside(one: Mapping[str, Any]) -> str:
    protocol = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in one["protocol"].items())
    caveats = "".join(f"<li>{escape(text)}</li>" for text in one["caveats"])
    rows = "".join(_part(part) for part in one["parts"])
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Numbers"><table><thead><tr><th>what</th><th>number '
        "[95 %]</th><th>holds where</th><th>outcome</th><th>networks and interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    return (
        f'<div class="inside"><p class="question">{escape(one["question"])}</p><p>{escape(one["why"])}.</p>{table}'
        f"<dl><dt>reported</dt><dd>{escape(one['reported'])} <small>({escape(one['source'])})</small></dd>"
        f"{protocol}</dl>{f'<ul>{caveats}</ul>' if caveats else ''}</div>"
    )


def _part(part: Mapping[str, Any]) -> str:
    forced = f" <small>by construction: {escape(part['forced'])}</small>" if part["forced"] else ""
    return (
        f'<tr><th scope="row">{escape(part["says"])}{forced}</th><td class="num">{escape(number(part))}</td>'
        f'<td>{escape(part["region_said"] or "–")}</td><td><span class="outcome" data-outcome="{part["outcome"]}">'
        f"{WORDS[part['outcome']]}</span></td><td>{_picture(part)}</td></tr>"
    )


def number(part: Mapping[str, Any]) -> str:
    """``0.96 [0.94, 0.98]``; – where there is none."""
    if part["value"] is None:
        return "–"
    said = _short(part["value"])
    return said if part["low"] is None else f"{said} [{_short(part['low'])}, {_short(part['high'])}]"


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _picture(part: Mapping[str, Any]) -> str:
    """The region, the interval, the number and each network's own, as an SVG."""
    numbers = [v for v in (part["value"], part["low"], part["high"], *part["each"]) if v is not None]
    if not numbers:
        return ""
    bounds = [v for v in part["region"] or () if v is not None]
    low, high = min([*numbers, *bounds]), max([*numbers, *bounds])
    room = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - room, high + room

    def at(value: float) -> float:
        return SIDE + (WIDTH - 2 * SIDE) * (min(max(value, low), high) - low) / (high - low)

    y = HEIGHT / 2
    drawn = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>']
    if part["region"]:
        left, right = (part["region"][0], part["region"][1])
        x1, x2 = at(low if left is None else left), at(high if right is None else right)
        drawn.append(f'<rect class="region" x="{x1:.1f}" y="2" width="{max(x2 - x1, 1.5):.1f}" height="{HEIGHT - 4}"/>')
    if part["low"] is not None:
        drawn.append(
            f'<line class="interval" x1="{at(part["low"]):.1f}" x2="{at(part["high"]):.1f}" y1="{y}" y2="{y}"/>'
        )
    drawn += [f'<circle class="net" cx="{at(v):.1f}" cy="{y}" r="2.6"/>' for v in part["each"] if v is not None]
    if part["value"] is not None and math.isfinite(part["value"]):
        drawn.append(
            f'<line class="value" x1="{at(part["value"]):.1f}" x2="{at(part["value"]):.1f}" y1="5" y2="{HEIGHT - 5}"/>'
        )
    said = f"{part['says']}: {number(part)}" + (f", holds where {part['region_said']}" if part["region_said"] else "")
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{escape(said)}">{"".join(drawn)}</svg>'
