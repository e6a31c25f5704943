"""Files from outside: bounds in bytes, depth, values and digits, the same wherever JSON or YAML is read."""

import os
import time
from pathlib import Path

import pytest

from storage.foreign import MAX_SETTINGS_BYTES, check_path, parse_json, parse_yaml, read_bytes, read_json, read_yaml

MERGED = "\n".join(
    ["a0: &a0 {x: 1, y: 2}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30))]
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MERGED, "more than 50000 values"),
        ("a: 0x" + "f" * 1_900_000, "a number of 1900002 characters"),
        ("a: 1" + ":1" * 500_000, "a number of 1000001 characters"),
        ("[" + "0," * 900_000 + "0]", "more than 50000 values"),
        ("- " * 100_000, "more than 100 deep"),
        ("[" * 100_000, "more than 100 deep"),
        ("&a [*a]", r"\*a refers to nothing that is complete"),
        ("a: 99999999999999999999", "the number 99999999999999999999"),
        ("a: !!int ''", "IndexError"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: 1\na: 2", "a occurs twice"),
        ("a: \x00", "control characters"),
        ("a: '\ud800'", "surrogates"),
    ],
)
def test_yaml_beyond_the_bounds_is_refused_at_once(text: str, problem: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=f"run.yaml: not YAML .*{problem}") as refusal:
        parse_yaml(text, "run.yaml")
    assert len(str(refusal.value)) < 400
    assert time.process_time() - began < 2


def test_yaml_within_them_means_what_it_says() -> None:
    text = "a: &a {x: 1, y: 1e3}\nb: {<<: *a, z: [0x1F, .inf, ~, 'é']}\nc: *a"
    one = {"x": 1, "y": "1e3"}
    assert parse_yaml(text, "f") == {"a": one, "b": {**one, "z": [31, float("inf"), None, "é"]}, "c": one}
    assert parse_yaml("", "f") is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[" * 100_000, "not JSON .*recursion"),
        (b"[" * 200 + b"]" * 200, "more than 100 deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "more than 100 deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b"{", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"", "not JSON"),
        (b'{"text": "\\ud83d"}', r"half of a surrogate pair \(U\+D83D\)"),
    ],
)
def test_json_beyond_the_bounds_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=f"config.json: .*{problem}"):
        parse_json(data, "config.json")


def test_json_within_them() -> None:
    assert parse_json(b'\xef\xbb\xbf{"model_max_length": 1000000000000000019884624838656}', "f") == {
        "model_max_length": 1000000000000000019884624838656
    }
    assert parse_json(b"[" * 100 + b"]" * 100, "f")
    assert parse_json(b'["\\ud83d\\ude00", "\\\\ud83d"]', "f") == ["😀", r"\ud83d"]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b" " * (MAX_SETTINGS_BYTES + 1))
    for name, problem in (
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("missing", "no file"),
        ("long", "2000001 bytes"),
    ):
        for read in (read_json, read_yaml):
            with pytest.raises(ValueError, match=problem) as refusal:
                read(tmp_path / name)
            assert name in str(refusal.value)
    assert read_bytes(Path("/proc/self/cmdline"), 100_000)  # says that it has no bytes


@pytest.mark.parametrize("name", ["a" * 256, "a/" * 2048 + "a", "a\0b", "a\ud800", "é" * 128])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        check_path(name)


def test_names_that_a_file_can_have() -> None:
    assert check_path("a" * 255 + "/" + "b" * 255) == Path("a" * 255 + "/" + "b" * 255)
