"""Ways to break a file: its bytes, its structure, and bombs that are known for its kind. All are drawn from a seed."""

import gzip
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import yaml

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

RAW = "@raw@"
"""Stands in a JSON text for what `json.dumps` would not write."""

DEPTH, LENGTH = 20_000, 300_000


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes of the bytes, wherever they fall."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_BYTES)(rng, changed)
    return bytes(changed)


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice((b"\0" * 64, b"\xff" * 9, b"[" * 4096, b'"', b"{", b"\n" * 999, rng.randbytes(40)))


def _repeat(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    piece = bytes(data[start : start + rng.randint(1, 200)])
    data[start:start] = piece * rng.choice((2, 50, 5000))


def _remove(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randint(1, 100)]


def _number(rng: random.Random, data: bytearray) -> None:
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    data[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))


MAX_ENTRIES = 1_000_000
"""Of a tree in which an entry is repeated: the tree is gone through and written here, not by what is tested."""

_BYTES = (_flip, _flip, _truncate, _insert, _repeat, _remove, _number)


def mutated_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON text with one to three of its values, names or entries changed; sometimes its bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, data)
    tree = json.loads(data)
    raw: dict[str, str] = {}
    for _ in range(rng.randint(1, 3)):
        tree = _changed(rng, tree, raw)
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    for mark, value in raw.items():
        text = text.replace(f'"{mark}"', value, max(1, 10 * LENGTH // len(value)))  # it may stand in 100,000 places
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: random.Random, tree: Any, raw: dict[str, str]) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.05:
        return _value(rng, raw)
    inside, key = rng.choice(places)
    what = rng.random()
    if what < 0.1:
        del inside[key]
    elif what < 0.2 and isinstance(inside, dict):
        inside[rng.choice((str(key) + "\u202e", "<<", "", "x" * 5000, "__class__"))] = inside.pop(key)
    elif what < 0.3 and isinstance(inside, dict):
        inside.update({f"k{i}": i for i in range(rng.choice((1, 1000, 100_000)))})
    elif what < 0.35 and isinstance(inside, list):
        times = min(rng.choice((1, 1000, 100_000)), MAX_ENTRIES // (1 + sum(1 for _ in _places(inside[key]))))
        inside.extend(deepcopy(inside[key]) for _ in range(times))  # one object many times would change many times
    else:
        inside[key] = _value(rng, raw)
    return tree


def _places(tree: Any) -> Any:
    """Every (list or object, index or name) in a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield tree, key
        yield from _places(value)


_PATHS = ("../" * 99 + "etc/passwd", "/dev/zero", "a" * 300, "b/" * 3000, "a\0b", "~nobody/x", "file:///x")
_TEXTS = ("\x1b]52;c;eA==\x07", "\u202e\u2066x", "\ud800", "\ufeff", "\x9b31m", "A\u0300" * 500, "\U0010ffff")


def _value(rng: random.Random, raw: dict[str, str]) -> Any:
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice((None, True, False, "", [], {}, [[]], [None], {"": None}))
    if kind == 1:
        return rng.choice((-1, 0, 1, 7, 10**6, 10**7, 2**31, 2**53, 2**63, 10**30, -(2**70), 0.5, -1e300))
    if kind == 2:
        return rng.choice((float("nan"), float("inf"), float("-inf")))
    if kind == 3:
        return rng.choice(
            ("../" * 99 + "etc/passwd", "/dev/zero", "a" * 300, "b/" * 3000, "a\0b", "~nobody/x", "file:///x")
        )
    if kind == 4:
        return rng.choice(
            ("\x1b]52;c;eA==\x07", "\u202e\u2066x", "\ud800", "\ufeff", "\x9b31m", "A\u0300" * 500, "\U0010ffff")
        )
    if kind == 5:
        return "x" * rng.choice((1000, LENGTH))
    mark = f"{RAW}{len(raw)}"
    raw[mark] = rng.choice(
        (
            "[" * DEPTH, "[" * 90 + "]" * 90, "[" * 900 + "]" * 900, '{"a":' * DEPTH, "9" * 5000, "9" * LENGTH, "1e999",
            "-0", "1" + "0" * 80, "NaN", "[" + "0," * LENGTH + "0]", "[" + "[]," * LENGTH + "0]", "0x1F", "'x'",
            "{1:2}", '{"a":1,"a":2}',
        )
    )  # fmt: skip
    return mark


def mutated_json_lines(rng: random.Random, data: bytes) -> bytes:
    """Lines of JSON, one of them changed as a JSON text; sometimes the bytes of all."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    what = rng.random()
    if what < 0.1:
        lines[at] = b'{"text": "' + b"a" * (2**24) + b'"}\n'
    elif what < 0.15:
        lines[at] = b"\n" * 3_000_000
    elif what < 0.2:
        lines[at] = b"[" + b'{"":0},' * 2_000_000 + b"0]\n"
    else:
        lines[at] = mutated_json(rng, lines[at].strip() or b"{}").replace(b"\n", b" ") + b"\n"
    return b"".join(lines)


def mutated_yaml(rng: random.Random, data: bytes) -> bytes:
    """YAML with a value changed, or with one of the bombs of its kind at the end."""
    what = rng.random()
    if what < 0.25:
        return mutated_bytes(rng, data)
    if what < 0.6:
        values = yaml.safe_load(data)
        return mutated_json(rng, json.dumps(values).encode())
    return data + rng.choice(_YAML_BOMBS) + b"\n"


def _unfolding(merge: bool) -> bytes:
    first, one = ("{x: 1, y: 2}", "<<: ") if merge else ("[x, y]", "")
    lines = [f"a0: &a0 {first}"]
    for i in range(1, 40):
        inside = f"[{', '.join([f'*a{i - 1}'] * 9)}]"
        lines.append(f"a{i}: &a{i} " + (f"{{{one}{inside}}}" if merge else inside))
    return "\n".join(["", *lines, "feature_input_hook: *a39", "name: *a39", "transcoders: *a39"]).encode()


_YAML_BOMBS = (
    _unfolding(merge=True), _unfolding(merge=False), b"\nk: 0x" + b"f" * 1_500_000, b"\nk: 1" + b":1" * 500_000,
    b"\nk: [" + b"0," * 900_000 + b"0]", b"\nk: " + b"- " * 300_000, b"\nk: " + b"[" * 300_000, b"\nk: &a [*a]",
    b"\nk: !!python/object/apply:os.system [touch trap]", b"\nk: !!int ''", b"\nk: !!timestamp x", b"\nk: *missing",
    b"\n? [a]\n: b", b"\nk: 2001-99-99", b"\nk: .nan", b"\nk: 1e999", b"\n%YAML 9.9\n---\n", b"\n--- {}\n--- {}",
    b"\nk: !!binary x", b"\nk: '" + b"x" * 1_900_000 + b"'", b"\nk: '" + b"x" * 9_000_000 + b"'", b"\n\tk: 1",
    b"\nk: 99999999999999999999", b'\nk: "\\0\\x9b\\u202e"', b"\nk: |2\n" + b" " * 100_000,
)  # fmt: skip


def mutated_safetensors(rng: random.Random, data: bytes) -> bytes:
    """The bytes, or the JSON header with the length before it set anew."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutated_json(rng, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutated_npz(rng: random.Random, data: bytes) -> bytes:
    """The bytes of the archive, or of one array in it: its header is a Python expression."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, data)
    headers = (
        b"(" * 5000, b"{'descr': '<f4', 'shape': " + b"(" * 9000, b"'''", b"{'descr': " + b"-" * 9000 + b"1}",
               b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999), }", b"\x00" * 99,
               b"9**9**9**9", b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", 
        b"{" * 300 + b"}" * 300,
    )  # fmt: skip

    def inside(name: str, array: bytes) -> bytes:
        if name.endswith(".npy") and rng.random() < 0.6:
            text = rng.choice(headers)
            return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array[128:]
        return mutated_bytes(rng, array)

    return _mutated_zip(rng, data, inside, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def mutated_torch(rng: random.Random, data: bytes) -> bytes:
    """The bytes of the archive, of a part of it, or a pickle made to exhaust its reader."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)

    def inside(name: str, part: bytes) -> bytes:
        if name.endswith("data.pkl") and rng.random() < 0.6:
            return rng.choice(_PICKLES)
        return mutated_bytes(rng, part)

    return _mutated_zip(rng, data, inside, zipfile.ZIP_STORED)


def _mutated_zip(rng: random.Random, data: bytes, change: Callable[[str, bytes], bytes], method: int) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    chosen = next((name for name in names if name.endswith("data.pkl") and rng.random() < 0.7), rng.choice(names))
    with zipfile.ZipFile(target, "w", method) as archive:
        for name in names:
            part = source.read(name)
            archive.writestr(name, change(name, part) if name == chosen else part)
        for number in range(rng.choice((0, 0, 0, 0, 3, 60_000 if rng.random() < 0.05 else 3))):
            archive.writestr(f"more{number}", b"")
    return target.getvalue()


def _nested_tuple(levels: int) -> bytes:
    """A tuple that holds another twice, which does so again: 2^levels values in a few hundred bytes."""
    return b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(levels))


_PICKLES = (
    b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + _nested_tuple(60)[2:] + b"X\x01\x00\x00\x00cK\x01tQ.",
    b"\x80\x02}" + _nested_tuple(60)[2:] + b"K\x01s.",
    b"\x80\x04\x8f(" + _nested_tuple(60)[2:] + b"\x90.",
    b"\x80\x02" + b"]" * 100_000 + b".", b"\x80\x02" + b"(" * 100_000 + b".",
    b"\x80\x02" + b"}" * 9_000_000 + b".", b"\x80\x02" + b"}" * 190_000 + b".",
    b"\x80\x02" + b"]q\x00" + b"h\x00h\x00a" * 50_000 + b".", b"\x80\x02]r\xff\xff\xff\x7f.",
    b"\x80\x02X\xff\xff\xff\x7fx.",
    b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 99, b"I" + b"9" * 100_000 + b"\n.", b"cos\nsystem\n(S'touch trap'\ntR.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.", b"\x80\x02cnumpy\nload\nU\x04trap\x85R.", b".", b"",
    b"\x80\x02ctorch\nload\n.", b"\x80\x02K\x01K\x02b.", b"\x80\x02a.", b"\x80\x02h\x07.", b"\x82\x01.",
    pickle.dumps({"state_dict": {"W_dec": 1}, "cfg": [[]] * 9}, 2), pickle.dumps({("a",): 1}, 2),
)  # fmt: skip


def mutated_gzip(rng: random.Random, data: bytes) -> bytes:
    """The packed bytes, or what is packed in them; at times thousands of empty members."""
    what = rng.random()
    if what < 0.4:
        return mutated_bytes(rng, data)
    if what < 0.45:
        return gzip.compress(b"") * 20_000 + data
    if what < 0.5:
        return gzip.compress(bytes(1 << 25), 1) + data
    return gzip.compress(mutated_json_lines(rng, gzip.decompress(data)), 1)
