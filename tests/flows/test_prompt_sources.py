"""A prompt comes from the command's argument, from a file or from standard input: from one of them."""

import io
from pathlib import Path

import pytest

from flows.cli.attribute import _prompt


def test_argument_file_and_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a long\ntext, naïve\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    assert _prompt("words", None) == "words"
    assert _prompt(None, tmp_path / "long.txt") == "a long\ntext, naïve\n"
    assert _prompt("-", None) == "piped"


@pytest.mark.parametrize("both", [False, True])
def test_none_and_two_are_refused(tmp_path: Path, both: bool) -> None:
    with pytest.raises(ValueError, match="one prompt"):
        _prompt("words" if both else None, tmp_path / "a.txt" if both else None)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text: byte 3"):
        _prompt(None, tmp_path / "a.txt")
