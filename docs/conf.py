"""The documentation site: `make docs` builds it. Commands and pages are made from the project itself."""

from __future__ import annotations

import re
from pathlib import Path

import typer
import typer.cli
import typer.main
from flatlens_cli import app as commands

import flatlens

HERE = Path(__file__).parent

project = "flatlens"
author = "The flatlens developers"
version = release = flatlens.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_gallery"]
highlight_language = "shell"
nitpicky = False

html_theme = "furo"
html_title = "flatlens"
html_extra_path = ["_gallery"] if (HERE / "_gallery").is_dir() else []
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#63b0f7", "color-brand-content": "#63b0f7"},
}

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def command_reference() -> str:
    """All commands with their options and examples, from the commands themselves."""
    whole = typer.main.get_command(commands.application())
    text = typer.cli.get_docs_for_click(obj=whole, ctx=typer.Context(whole), name="flatlens")
    listed = "".join(
        f"- [`{name}`](#flatlens-{name}): {verb.summary}\n" for name, verb in commands.VERBS.items()
    )  # typer cuts the summaries short
    text = re.sub(r"(\*\*Commands\*\*:\n\n)(?:\* .*\n)+", lambda found: found[1] + listed, text)
    text = text.replace("# `flatlens`\n", "# Command line\n", 1)
    examples = r"\*\*Examples\*\*\n\n((?:`flatlens [^\n]*`\n*)+)"
    return re.sub(examples, lambda found: f"```shell\n{_lines(found[1])}\n```\n\n", text)


def _lines(text: str) -> str:
    return "\n".join(line.strip("`") for line in text.splitlines() if line)


def setup(_: object) -> None:
    """Write what is made from the project."""
    (HERE / "reference" / "commands.md").write_text(command_reference(), encoding="utf-8")
