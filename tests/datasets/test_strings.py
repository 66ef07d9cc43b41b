"""Slots that somebody has found: each kind of file is read, given to its prompts, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flatlens.datasets.prompts import Prompt, gathered
from flatlens.datasets.strings import load, of_prompts
from flatlens.errors import AttackError

PROMPTS = gathered([Prompt("Who wrote it?", "Me."), Prompt("Name a colour.", "No.", id="colour")], "here")
TWO = [(" a", " b"), (" c",)]
KINDS: dict[str, str] = {
    "lines by index and id": '{"index": 0, "strings": [" a", " b"]}\n\n{"id": "colour", "strings": [" c"]}\n',
    "in the other order": '{"id": "colour", "strings": [" c"]}\n{"index": 0, "strings": [" a", " b"]}',
    "lines in order": '{"strings": [" a", " b"]}\n{"string": " c"}',
    "a list": '[{"strings": [" a", " b"]}, {"slot": " c", "prompt": "Name a colour.", "target": "No."}]',
    "with a mark": '\ufeff[{"suffix": " d", "strings": [" a", " b"]}, {"index": 1, "suffix": " c"}]',
}


def put(folder: Path, text: str | bytes) -> Path:
    file = folder / "found.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_gives_each_prompt_its_strings(kind: str, tmp_path: Path) -> None:
    assert of_prompts(load(put(tmp_path, KINDS[kind])), PROMPTS, [0, 1], "suffix") == TWO


def test_what_nanogcg_returns_is_of_the_one_prompt(tmp_path: Path) -> None:
    result = {"best_loss": 1.0, "best_string": " b", "losses": [2.0, 1.0], "strings": [" a", " b"]}
    one = gathered(PROMPTS.prompts[1:], "here")
    for text in (json.dumps(result), json.dumps(result, indent=1), json.dumps([result])):
        assert of_prompts(load(put(tmp_path, text)), one, [7], "suffix") == [(" a", " b")]
    with pytest.raises(AttackError, match="is of one prompt, and the data have 2: give --samples"):
        of_prompts(load(put(tmp_path, json.dumps(result))), PROMPTS, [0, 1], "suffix")


@pytest.mark.parametrize("slot", ["suffix", "prefix"])
def test_of_artifacts_the_slot_is_what_stands_beside_the_prompt(slot: str, tmp_path: Path) -> None:
    def said(prompt: str, own: str) -> str:
        return f"{prompt}{own}" if slot == "suffix" else f"{own} {prompt}"

    held = [
        {"index": 1, "goal": "g", "prompt": said("Name a colour.", " now!"), "jailbroken": True},
        {"index": 4, "goal": "g", "prompt": None, "jailbroken": False},
        {"index": 0, "goal": "g", "jailbreak": said("Who wrote it?", " x"), "prompt": "another"},
    ]
    file = put(tmp_path, json.dumps({"parameters": {}, "jailbreaks": held}))
    assert of_prompts(load(file), PROMPTS, [0, 1], slot) == [(" x",), (" now!",)]
    other = gathered([Prompt("Something else.", "No.")], "here")
    with pytest.raises(AttackError, match="there is no slot in it; fl.curvature_text measures whole texts"):
        of_prompts(load(file), other, [1], slot)
    with pytest.raises(AttackError, match=r"there are no strings of prompt '0' \(index 4\); there are of: 1, 0"):
        of_prompts(load(file), other, [4], slot)


BAD: dict[str, tuple[Any, str]] = {
    "nothing": ("", "holds no strings"),
    "an empty list": ("[]", "holds no strings"),
    "no UTF-8": (b'{"strings": ["\xff"]}', "is not UTF-8: line 1 holds byte 0xff"),
    "no JSON": ('{"strings": ["a"]}\n{"strings": [', "line 2 of 'found.jsonl' is no JSON"),
    "no object": ('["a", "b"]', "entry 0 of 'found.jsonl' is no object"),
    "a number": ("3", "'found.jsonl' is no object"),
    "no strings": ('{"id": "a", "losses": [1]}', "has neither strings"),
    "none of them": ('{"strings": []}', "its strings are empty"),
    "a number among them": ('{"strings": ["a", 3]}', "string 1 is 3; needs a text of 1 to"),
    "an empty text": ('{"strings": [""]}', "string 0 is ''; needs a text"),
    "a NUL": ('{"strings": ["a\\u0000"]}', "string 0 is"),
    "a very long text": (json.dumps({"strings": ["a" * 1_000_001]}), "needs a text of 1 to 1,000,000 characters"),
    "a loss too few": ('{"strings": ["a", "b"], "losses": [1]}', "has 2 strings and 1 losses"),
    "an index that is none": ('{"index": "3", "strings": ["a"]}', "index '3' is no place"),
    "an index below 0": ('{"index": -1, "strings": ["a"]}', "index -1 is no place"),
    "an id that is none": ('{"id": [1], "strings": ["a"]}', "is no name of a prompt"),
    "an id twice": ('{"id": "a", "strings": ["a"]}\n{"id": "a", "strings": ["b"]}', "are both of id 'a'"),
    "an index twice": ('[{"index": 1, "string": "a"}, {"index": 1, "string": "b"}]', "are both of index 1"),
}


@pytest.mark.parametrize("which", BAD)
def test_one_line_says_what_is_wrong_with_a_file(which: str, tmp_path: Path) -> None:
    content, said = BAD[which]
    with pytest.raises(AttackError) as told:
        load(put(tmp_path, content))
    assert said in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 300


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for file, said in ((tmp_path / "none.json", "is not there"), (tmp_path, "is a folder")):
        with pytest.raises(AttackError, match=said):
            load(file)
