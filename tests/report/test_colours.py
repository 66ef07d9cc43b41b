"""The colours of roles, told apart by every eye, and the texts drawn in them, legible: computed, not judged by eye."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from flatlens.report import page, page_data, roles
from tests.synthetic import make_trace

# Machado, Oliveira & Fernandes 2009, severity 1, on linear sRGB.
VISION = {
    "all cones": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
ROLES = ("attack", "cross", "noise", "chosen")
LEAST_DISTANCE, LEAST_CONTRAST = 15, 4.5


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    x, y, z = (
        np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in TO_XYZ @ np.clip(light, 0, 1) / WHITE
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """ΔE2000 of two colours in CIELAB (Sharma, Wu & Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    dl, dc, dh = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    t = (
        1 - 0.17 * np.cos(np.radians(hue - 30)) + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6)) - 0.20 * np.cos(np.radians(4 * hue - 63))
    )  # fmt: skip
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turned = (
        2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    )
    return float(np.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 - turned * (dc / sc) * (dh / sh)))


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio."""
    dark, bright = sorted(float(linear(colour) @ TO_XYZ[1]) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ],
)
def test_the_distance_is_that_of_the_published_pairs(one, other, expected):
    assert distance(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_roles_are_told_apart_by_every_eye(theme, vision):
    seen = {role: lab(np.array(VISION[vision]) @ linear(roles.colours()[theme][role])) for role in ROLES}
    near = {pair: distance(seen[pair[0]], seen[pair[1]]) for pair in itertools.combinations(ROLES, 2)}
    assert {pair: round(value, 1) for pair, value in near.items() if value < LEAST_DISTANCE} == {}


def texts(node, colour=None):
    """The names of colours of whatever is written in a figure."""
    if isinstance(node, dict):
        for key, part in node.items():
            if key == "font" or key.endswith("font"):
                colour = part.get("color", colour)
                if colour:
                    yield colour
            else:
                yield from texts(part, colour)
    elif isinstance(node, list):
        for part in node:
            yield from texts(part, colour)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_of_figures_stand_off_from_what_is_behind_them(theme):
    trace, named = make_trace(40, 12, ("head", "conv1")), {v: k for k, v in roles.colours()["light"].items()}
    own = roles.colours()[theme]
    run = page_data.pages([trace])["runs"][0]
    written = {named[c] for figure in run["figures"].values() for part in texts(figure) for c in [part] if c in named}
    inside = set(re.findall(r'<text[^>]* fill="var\(--([\w-]+)\)"', page.picture(trace)))
    assert {"muted", "attack", "cross-ink"} <= written and {"muted", "attack", "cross-ink"} <= inside
    hover = "card"  # on ink, not on the card
    for name in (written | inside) - {hover}:
        for ground in ("card", "wrong"):
            assert contrast(own[name], own[ground]) >= LEAST_CONTRAST, (name, ground)
    assert contrast(own["card"], own["ink"]) >= LEAST_CONTRAST


def test_both_themes_name_the_same_colours():
    light, dark = roles.colours()["light"], roles.colours()["dark"]
    assert list(light) == list(dark)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for theme in (light, dark) for colour in theme.values())
    assert all(f"--{name}: {dark[name]};" in roles.styles().splitlines()[1] for name in dark)
