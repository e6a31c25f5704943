"""How much of a corpus's held-out text is a copy of the rest: what descriptions would be judged on that they were made
from.

    python -m benchmarks.near_duplicates CORPUS … [--config configs/demo.yaml] [--n-texts 100000] [--json]
"""

import argparse
import json
import tempfile
from pathlib import Path

from configs.load import load_config
from flows.inputs.checkpoint_plan import open_inputs
from tasks.activations.corpora import tokenise_corpus
from tasks.evaluation.texts import TextsJob, of_corpus


def measured(config: str, corpus: str, n_texts: int) -> dict[str, object]:
    """Counts of one corpus, tokenised as a run would."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"store={folder}", f"corpus.source={corpus}", f"evaluate.how.n_texts={n_texts}"]
        inputs = open_inputs(load_config(Path(config), overrides))
        tokenise_corpus.fn(inputs.store, inputs.corpus, inputs.model.path)
        how = inputs.config.evaluate.how
        found = of_corpus(inputs.store, TextsJob((inputs.corpus.corpus_id,), inputs.bos, how), 0)
    counts = found.left_out._asdict()
    share = counts["n_near_duplicates"] / max(1, counts["n_texts"])
    return {"corpus": Path(corpus).name, **counts, "share_near_duplicates": round(share, 4)}


def main() -> None:
    """Print a line a corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--n-texts", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    arguments = parser.parse_args()
    for corpus in arguments.corpus:
        found = measured(arguments.config, corpus, arguments.n_texts)
        print(json.dumps(found) if arguments.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
