"""Prompts from files: what is read, and one line for each kind of file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatlens.datasets import prompts
from flatlens.datasets.prompts import Prompt, gathered, load
from flatlens.errors import DataError

ONE = '{"prompt": "Tell me.", "target": "No."}'


def written(tmp_path: Path, name: str, content: str | bytes) -> str:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"prompts:{file}"


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "lines": ("p.jsonl", f"{ONE}\n\n{ONE.replace('Tell', 'Ask')}\n"),
        "no newline at the end": ("p.jsonl", f"{ONE}\n{ONE.replace('Tell', 'Ask')}"),
        "a byte order mark": ("p.jsonl", b"\xef\xbb\xbf" + f"{ONE}\n{ONE.replace('Tell', 'Ask')}".encode()),
        "carriage returns": ("p.jsonl", f"{ONE}\r\n{ONE.replace('Tell', 'Ask')}\r\n"),
        "a table": ("p.csv", "prompt,target\nTell me.,No.\nAsk me.,No.\n"),
        "AdvBench's columns": ("p.csv", 'goal,target\nTell me.,No.\n"Ask me.",No.\n'),
        "a column more": ("p.csv", "n,goal,target\n1,Tell me.,No.\n2,Ask me.,No.\n"),
    }.values(),
)
def test_files_are_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = load(written(tmp_path, name, content))
    assert [(one.prompt, one.target) for one in found.prompts] == [("Tell me.", "No."), ("Ask me.", "No.")]
    assert found.names == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    {
        "empty": ("p.jsonl", "", "holds no prompt"),
        "blank lines": ("p.jsonl", "\n\n", "holds no prompt"),
        "no JSON": ("p.jsonl", f"{ONE}\nnonsense\n", "line 2 .* is no JSON"),
        "no object": ("p.jsonl", f"{ONE}\n[1]\n", "line 2 .* is no object"),
        "no prompt": ("p.jsonl", '{"target": "No."}', "line 1 .* has no prompt"),
        "no target": ("p.jsonl", '{"prompt": "Tell me."}', "line 1 .* has no target"),
        "an empty target": ("p.jsonl", '{"prompt": "Tell me.", "target": ""}', "target is empty"),
        "a blank target": ("p.jsonl", '{"prompt": "Tell me.", "target": " "}', "target is empty"),
        "a number as target": ("p.jsonl", '{"prompt": "Tell me.", "target": 3}', r"target is of type int \(3\)"),
        "a null target": ("p.jsonl", '{"prompt": "Tell me.", "target": null}', "target is of type NoneType"),
        "the character 0": ("p.jsonl", '{"prompt": "Tell\\u0000 me.", "target": "No."}', "holds what is no text"),
        "half a character": ("p.jsonl", '{"prompt": "Tell\\ud800 me.", "target": "No."}', "holds what is no text"),
        "equal ids": ("p.jsonl", '{"id": "a", "prompt": "x", "target": "y"}\n' * 2, "both have the id 'a'"),
        "not UTF-8": ("p.jsonl", b'{"prompt": "\xff", "target": "No."}', "is not UTF-8: line 1 holds byte 0xff"),
        "a table without columns": ("p.csv", "question,answer\na,b\n", "names 'question', 'answer'; columns"),
        "an empty table": ("p.csv", "", "names nothing"),
        "a table of no rows": ("p.csv", "prompt,target\n", "holds no prompt"),
        "a row that is too short": ("p.csv", "prompt,target\nTell me.\n", "line 2 .* has no target"),
        "another ending": ("p.txt", ONE, "is neither .jsonl"),
    }.values(),
)
def test_one_line_says_what_is_wrong_with_a_file(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as told:
        load(written(tmp_path, name, content))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("prompts:nowhere.jsonl", "is not there"),
        ("prompts:", "is not there"),
        ("prompts:.", "is a folder"),
        ("prompts:a.jsonl?x=1", "option 'x'"),
        ("flatlens:digits", "flatlens:benign-targets"),
        ("flatlens:prompt", "--prompt is missing"),
    ],
)
def test_one_line_says_which_names_there_are(uri: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(uri)


def test_twelve_harmless_prompts_come_with_flatlens() -> None:
    found = load("flatlens:benign-targets")
    assert len(found) == 12 and len(set(found.names)) == 12
    assert len({one.target for one in found.prompts}) == 12


def test_the_hash_is_of_the_texts() -> None:
    one, two = gathered([Prompt("a", "b")], "x"), gathered([Prompt("a", "b")], "y")
    assert one.sha256 == two.sha256 != gathered([Prompt("a", "c")], "x").sha256


def test_a_prompt_of_a_million_characters_is_a_wrong_file() -> None:
    Prompt("x" * prompts.LONGEST, "y")
    with pytest.raises(DataError, match="has 1,000,001 characters"):
        Prompt("x" * (prompts.LONGEST + 1), "y")


def test_messages_are_as_chat_templates_take_them() -> None:
    assert Prompt("a", "b").messages == [{"role": "user", "content": "a"}]
    assert [m["role"] for m in Prompt("a", "b", system="s").messages] == ["system", "user"]
