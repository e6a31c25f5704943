"""Run by the oracles' Python: FADE's own figures of activations and ratings given as JSON lines."""

import json
import sys
from pathlib import Path

import torch
from fade.results import faithfulness_metric, gini_ap_metric


def main(cases: str, output: str) -> None:
    with Path(output).open("w") as file:
        for line in Path(cases).read_text().splitlines():
            case = json.loads(line)
            clarity, _ = gini_ap_metric(torch.tensor(case["natural"]), torch.tensor(case["synthetic"]))
            responsiveness, purity = gini_ap_metric(torch.tensor(case["rated_0"]), torch.tensor(case["rated_2"]))
            ratings = {float(factor): dict(enumerate(many)) for factor, many in case["continuations"].items()}
            faithfulness = faithfulness_metric(ratings)[0]
            file.write(json.dumps([clarity, responsiveness, purity, faithfulness]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
