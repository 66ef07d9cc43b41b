"""The page's program: its modules' own tests (tests/web, by vitest), and how they are joined into one script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flatlens.report import modules, page

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "flatlens/report/assets"


def test_the_modules_tests_pass():
    if shutil.which("npm") is None and os.environ.get("CI") != "true":
        pytest.skip("no npm: the tests of the page's modules are left out")
    done = subprocess.run([ROOT / "tests/web/run", "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_every_module_is_in_the_program_once():
    program = modules.joined(page.PROGRAM)
    folders = ("core", "draw", "parts")
    for file in sorted(path for folder in folders for path in (ASSETS / folder).glob("*.js")):
        if file.name != "types.js":  # nothing in it runs
            assert program.count(file.read_text().splitlines()[0]) == 1, file
    assert not [line for line in program.splitlines() if line.startswith(("import ", "export "))]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.js": 'import { b } from "./b.js";\n', "b.js": 'import { a } from "./a.js";\n'}, "in a circle"),
        ({"a.js": 'import { b } from "./b.js";\nconst x = 1;\n', "b.js": "export const x = 2;\n"}, "both declare 'x'"),
        ({"a.js": 'import b from "./b.js";\n', "b.js": ""}, "no shape of import"),
        ({"a.js": 'import * as b from "./b.js";\n', "b.js": ""}, "no shape of import"),
        ({"a.js": "export default 1;\n"}, "no shape of import"),
        ({"a.js": 'export { b } from "./b.js";\n', "b.js": ""}, "no shape of import"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path, monkeypatch, files, said):
    write(tmp_path, files, monkeypatch)
    with pytest.raises(ValueError, match=said):
        modules.joined("a.js")


def test_modules_are_joined_in_the_order_in_which_they_are_needed(tmp_path, monkeypatch):
    made = {
        "pages/a.js": 'import { b, c } from "../core/b.js";\nexport async function a() {}\nexport { a, b };\n',
        "core/b.js": 'import { d } from "./d.js";\nexport const b = d, c = 1;\n',
        "core/d.js": "export let d = 1;\n",
    }
    write(tmp_path, made, monkeypatch)
    kept = modules.joined("pages/a.js").split()
    assert "".join(kept) == "letd=1;constb=d,c=1;asyncfunctiona(){}"


def write(folder, files, monkeypatch):
    for name, text in files.items():
        (folder / "assets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "assets" / name).write_text(text)
    monkeypatch.setattr(modules, "files", lambda _: folder)
