"""The documentation site: it builds without a warning, and what it is made from is all there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from flatlens_cli.app import VERBS

import flatlens as fl
from tests import assets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link within the site, every name of the reference, every included file."""
    assets.package("sphinx", "pip install 'flatlens[docs]'")
    import subprocess
    import sys

    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(DOCS),
        str(tmp_path / "html"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "html" / "reference" / "commands.html").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f'href="#flatlens-{verb}"' in commands and f'id="flatlens-{verb}"' in commands


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    for name in fl.__all__:
        assert name == "__version__" or re.search(rf"\.{name}$", text, re.M), name


def test_the_gallery_links_pages_that_are_made() -> None:
    linked = set(re.findall(r'href="pages/(\w+)\.html"', (DOCS / "gallery.md").read_text(encoding="utf-8")))
    assert linked == {name for name, (_, file) in loaded("pages").MADE.items() if file}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_files_outside_the_site_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"#]+)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
