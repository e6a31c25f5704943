"""What a server that loses answers charged, beside what is recorded and what is set aside: twelve scenarios.

    python -m benchmarks.money [--json]

Six questions each, at $0.0006 for an answer, with a budget of $10 and with one for a few answers alone.
"""

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path

from pytest_httpserver import HTTPServer

from tests.tasks.api_server import KEY
from tests.tasks.test_money import COST, SCENARIOS, Till, asking, prompts

BUDGETS = (10.0, 12 * COST)


def charged(scenario: str, budget_usd: float) -> dict[str, object]:
    """One scenario, against a server of its own."""
    with HTTPServer() as server, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url_for("").rstrip("/")}
        till = Till(server)
        SCENARIOS[scenario](till)
        model = asking(Path(folder), budget_usd=budget_usd)
        model.ask(prompts(6))
        spent = model.ledger.of_run
        return {
            "scenario": scenario,
            "budget_usd": round(budget_usd, 4),
            "charged_usd": round(till.charged, 4),
            "recorded_usd": round(spent.recorded, 4),
            "set_aside_usd": round(spent.set_aside, 4),
            "within": till.charged <= spent.total + 1e-12 and spent.total <= budget_usd + 1e-9,
        }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for number, found in enumerate(charged(scenario, budget) for budget in BUDGETS for scenario in SCENARIOS):
        if arguments.json:
            print(json.dumps(found))
            continue
        if number == 0:
            print("| " + " | ".join(found) + " |\n" + "|---" * len(found) + "|")
        print("| " + " | ".join(map(str, found.values())) + " |")


if __name__ == "__main__":
    main()
