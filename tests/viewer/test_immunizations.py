"""An immunization in `flatlens view`: a row of the list, and its page, which runs flatlens' own program alone."""

from __future__ import annotations

import os

import pytest

import flatlens as fl
from flatlens.report import html_file, immunity_page, immunity_parts
from tests.immunity.made import pair
from tests.served import serving


@pytest.fixture
def root(tmp_path):
    fl.immunize(*pair(), "alg1", steps=4, out=tmp_path / "runs" / "<b>immune")
    return tmp_path / "runs"


def test_it_is_listed_and_opens_and_is_drawn_where_it_has_no_page(root):
    with serving(root) as served:
        row = served.rows()["<b>immune"]
        assert (row["kind"], row["state"]) == ("immunization", "finished")
        assert row["about"].startswith("immunization, alg1, RIR ")
        page = served.ask(row["href"])
        assert page.status == 200 and "iteration by iteration" in page.text
        assert html_file.hashed(html_file.wrapped(immunity_parts.program())) in page.headers["Content-Security-Policy"]
        # It is no run: none of their pages, and not to be compared.
        key = row["key"]
        for path in (f"/run/{key}", f"/picture/{key}", f"/sweep/{key}/report.html", f"/compare?runs={key}.{key}"):
            assert served.ask(path).status == 404


@pytest.mark.parametrize(
    ("change", "trusted"),
    [(lambda text: text.replace("<main>", "<main>as it lies there"), True),
     (lambda text: text.replace("openImmunity();", "openImmunity();fetch('//x')"), False)],
    ids=["flatlens' own program", "another program"],
)  # fmt: skip
def test_a_page_in_the_folder_is_shown_only_with_flatlens_own_program(root, change, trusted):
    from flatlens.records import immunized

    folder = root / "<b>immune"
    text = immunity_page.document(immunized.result(folder))
    (folder / "report.html").write_text(change(text))
    with serving(root) as served:
        shown = served.ask(served.rows()["<b>immune"]["href"]).text
        assert ("as it lies there" in shown) == trusted and "fetch('//x')" not in shown
        os.utime(folder / "report.html", (1, 1))  # older than the figures
        assert "as it lies there" not in served.ask(served.rows()["<b>immune"]["href"]).text


def test_damage_is_a_row_that_says_so(root):
    (root / "<b>immune" / "immunization.json").write_text("{")
    with serving(root) as served:
        row = served.rows()["<b>immune"]
        assert row["state"] == "damaged" and "immunization.json" in row["error"]
        reply = served.ask(row["href"])
        assert reply.status == 422 and "--force makes it anew" in reply.text
