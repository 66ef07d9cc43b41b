"""Draw the README's pictures anew: of a run's page, from the report of `make demo`, or of a sweep's.

    .venv/bin/python data/pictures/draw.py runs/demo/report.html
    .venv/bin/python data/pictures/draw.py --sweep runs/architectures/report.html

Needs Debian's chromium and the test extra (playwright, pillow). Writes WebP files beside this one: the first screen in
both themes, on a wide screen and on a phone, and a short moving picture: the ridge is turned, the slider is played.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SCREENS = {1440: 900, 390: 844}
FRAMES, MILLISECONDS = 26, 110
LONGEST = 1700
"""Pixels of a picture's height."""


def shot(page: Page, **how: object) -> Image.Image:
    """What is seen now."""
    return Image.open(io.BytesIO(page.screenshot(**how))).convert("RGB")


def still(page: Page, file: Path) -> None:
    """The first screen."""
    shot(page).save(file, quality=82, method=6)


def moving(page: Page, file: Path) -> None:
    """The sample's step runs through its path while the ridge turns."""
    page.evaluate("document.getElementById('ridge-card').scrollIntoView({block: 'end'})")
    page.focus("#surface")
    frames = []
    for k in range(FRAMES):
        page.evaluate(f"flatlens.change({{step: {k}}})")
        page.keyboard.press("ArrowRight" if k < FRAMES // 2 else "ArrowLeft")
        page.wait_for_timeout(60)
        frames.append(shot(page).resize((960, 600), Image.Resampling.LANCZOS))
    frames[0].save(
        file, save_all=True, append_images=[*frames[1:], *[frames[-1]] * 6], duration=MILLISECONDS, loop=0, quality=62,
        method=6,
    )  # fmt: skip


def swept(page: Page, scheme: str, width: int) -> None:
    """A sweep's head with its table, and the curves with what is below them."""
    whole = shot(page, full_page=True)
    edge = page.evaluate("document.getElementById('panels-card').getBoundingClientRect().top + scrollY") - 10
    below = page.evaluate("document.getElementById('heat-card').getBoundingClientRect().top + scrollY") - 10
    head = whole.crop((0, 0, width, int(min(edge, LONGEST))))
    head.save(HERE / f"sweep-{scheme}-{width}.webp", quality=82, method=6)
    if width == max(SCREENS):
        curves = whole.crop((0, int(edge), width, int(below)))
        curves.save(HERE / f"sweep-curves-{scheme}-{width}.webp", quality=82, method=6)


def main(report: str, *, sweep: bool) -> None:
    """All of them."""
    ready = "#runs tbody tr" if sweep else "html[data-ready]"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            for width, height in SCREENS.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(Path(report).resolve().as_uri())
                page.wait_for_selector(ready)
                page.wait_for_timeout(800)
                if sweep:
                    swept(page, scheme, width)
                    continue
                still(page, HERE / f"report-{scheme}-{width}.webp")
                if (scheme, width) == ("light", 1440):
                    moving(page, HERE / "ridge.webp")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[-1], sweep="--sweep" in sys.argv)
