"""Import paths: the current directory counts, and every failure is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tinyclf.base.errors import BadInput
from tinyclf.base.plugins import load_object


def test_the_current_directory_is_searched_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_of_mine.py").write_text("def answer(): return 42\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_object("plug_of_mine:answer", what="source")() == 42
    assert sys.path == before
    del sys.modules["plug_of_mine"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("json", r"^architecture 'json': give it as package.module:function$"),
        (":dumps", r"give it as package.module:function"),
        ("json:", r"give it as package.module:function"),
        ("nowhere.at_all:f", r"^architecture 'nowhere.at_all:f': cannot import nowhere.at_all \(ModuleNotFoundError"),
        ("json:dump_all", r"^architecture 'json:dump_all': json has no function 'dump_all'$"),
        ("broken_plug:f", r"cannot import broken_plug \(ValueError: first line\)"),
        ("silent_plug:f", r"cannot import silent_plug \(RuntimeError: no reason given\)"),
    ],
)
def test_errors_are_one_line(path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plug.py").write_text("raise ValueError('first line\\nsecond line')\n")
    (tmp_path / "silent_plug.py").write_text("raise RuntimeError\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(BadInput, match=message) as raised:
        load_object(path, what="architecture")
    assert "\n" not in str(raised.value)
    assert sys.path == before
