"""Tokens a second into a store, against the tokenizer alone on the same texts: python -m benchmarks.corpora"""

import json
import tempfile
import time
from pathlib import Path

from storage.corpora.corpus import CorpusRecipe, corpus_attributes, write_corpus
from storage.corpora.python_docs import python_docs
from storage.models import open_model
from storage.store import Store

model = open_model(Path("demo/checkpoint/model"))
tokenizer = model.tokenizer
texts = list(python_docs()) * 3
began, n_tokens = time.perf_counter(), 0
for start in range(0, len(texts), 256):
    n_tokens += sum(map(len, tokenizer(texts[start : start + 256], add_special_tokens=False)["input_ids"]))
print(f"tokenizer alone: {n_tokens / (time.perf_counter() - began):,.0f} tokens/s")
for layout in ("packed", "padded"):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        recipe = CorpusRecipe(str(source), "s", "t", model.bos, 128, None, "text", layout)
        began = time.perf_counter()
        write_corpus(Store(Path(folder)), recipe, tokenizer)
        rate = corpus_attributes(Store(Path(folder)), recipe.corpus_id).n_tokens / (time.perf_counter() - began)
        print(f"{layout}, reading and writing included: {rate:,.0f} tokens/s")
