"""The word index of a site in small files, of which a browser loads only those that a search needs.

They are scripts, because pages opened from a file system may load nothing else: each calls a function of
`static/site.js` with the words of one beginning, or with a thousand features.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from explorer.texts import prose
from storage.search.words import lemma, words

FEATURES_A_FILE = 1000
LABEL_LENGTH = 120
LETTERS = 2
"""Words with the same first letters are in one file."""

MAX_FEATURES = 2000
"""Largest number of features of a word; those whose descriptions have the fewest other words come first."""


def write_words(folder: Path, described: Iterable[tuple[int, int, list[str]]]) -> None:
    """Write the index of some features' descriptions; a feature is shown with the first of them."""
    folder.mkdir(parents=True)
    features: list[list[object]] = []
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, (layer, feature, texts) in enumerate(described):
        forms = {form for text in texts for word in words(text) for form in (word.form, lemma(word.form))}
        for form in forms:
            found[form].append((len(forms), number))
        features.append([layer, feature, prose(texts[0])[:LABEL_LENGTH]])
    for start in range(0, len(features), FEATURES_A_FILE):
        some = features[start : start + FEATURES_A_FILE]
        _write(folder / f"features-{start // FEATURES_A_FILE}.js", "siteFeatures", start, some)
    shards: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for form in sorted(found):
        shards[form[:LETTERS]][form] = [number for _, number in sorted(found[form])[:MAX_FEATURES]]
    for letters, own in shards.items():
        _write(folder / f"{shard_name(letters)}.js", "siteWords", letters, own)


def shard_name(letters: str) -> str:
    """The name of a file for words with this beginning: their code points, which every file system can write."""
    return "w-" + "-".join(f"{ord(letter):x}" for letter in letters)


def _write(path: Path, function: str, key: object, value: object) -> None:
    text = f"{function}({json.dumps(key)},{json.dumps(value, separators=(',', ':'))});\n"
    path.write_text(text, encoding="utf-8")
