"""The house: which folders there are, who imports whom, and that no file has grown beyond one subject."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flatlens

ROOT = Path(flatlens.__file__).parent
LONGEST = 400
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def arrows() -> dict[str, set[str]]:
    """Module -> what it imports when it is imported."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flatlens":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name].add(whole if whole in MODULES else str(node.module))
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in MODULES}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_there_is_no_circle_of_imports(capsys: pytest.CaptureFixture[str]) -> None:
    graph = arrows()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
    crossing = Counter((room(a), room(b)) for a, following in graph.items() for b in following if room(a) != room(b))
    with capsys.disabled():
        print(f"\n{len({room(name) for name in graph})} rooms")
        for (a, b), count in sorted(crossing.items()):
            print(f"  {a} → {b}  {count}")


def test_the_top_level_is_folders() -> None:
    files = [path.name for path in ROOT.iterdir() if path.is_file()]
    folders = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(files) <= 8, files
    assert len(folders) <= 30


def test_no_module_bears_the_name_of_a_public_function() -> None:
    names = {path.stem for path in ROOT.glob("*.py")}
    assert not names & {"trace", "curvature", "open", "run", "run_sweep", "normalized"}


@pytest.mark.parametrize("folder", [ROOT, ROOT.parent / "cli"], ids=["flatlens", "cli"])
def test_no_file_is_longer_than_one_subject(folder: Path) -> None:
    lengths = {str(path.relative_to(folder)): len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    assert {name: count for name, count in lengths.items() if count > LONGEST} == {}


def test_no_script_or_style_of_a_page_is_longer_than_one_subject() -> None:
    files = [path for path in (ROOT / "report" / "assets").rglob("*.*s") if not path.name.endswith(".min.js")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {"sweep.js", "shell.css"} <= set(lengths)
    assert {name: count for name, count in lengths.items() if count > LONGEST} == {}
