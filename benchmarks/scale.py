"""What a run would take on models and machines that are not here, by the arithmetic of `plan`.

    python -m benchmarks.scale [--products 0.19e12] [--projections 0.3e12] [--workers 2] [--tokens 1e6]
                               [--explainer-prices 3,15] > table.md

Rates are operations a second of all workers together; `circuit-insights doctor` and `plan` measure those of a machine.
Operations are what a step's time grows by if both rates fall; what is left is reading, writing and Python, divided
among the workers. Prints Markdown.
"""

import argparse

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.describe_checkpoint import STAGES

SHAPES = {
    "GPT-2 small, 12 x 24,576": Sizes(12, 768, 50_257, 124e6, 24_576, 0, 0),
    "Gemma-2-2B, 26 x 16,384": Sizes(26, 2304, 256_000, 2.6e9, 16_384, 0, 0),
    "27B parameters, 26 x 131,072": Sizes(26, 4608, 256_000, 27e9, 131_072, 0, 0),
}

EVERYWHERE = Rates(1e40, 1e40)
"""With which only what is no arithmetic takes time."""


def configuration(arguments: argparse.Namespace) -> RunConfig:
    read, write = (float(price) for price in arguments.explainer_prices.split(","))
    claude = {"model": "any", "prices": {"input": read, "output": write, "cache_write": 0, "cache_read": 0}}
    return RunConfig.model_validate(
        {
            "name": "scale",
            "model": {"path": "."},
            "transcoder": {"path": "."},
            "corpus": {"source": "python-docs"},
            "coactivation": {"pairs": "edges"},
            "engine": {"workers": arguments.workers},
            "anthropic": claude,
            "describe": {"explainer": "anthropic", "methods": ["weightlens+out+llm"]},
            "evaluate": {"methods": ["weightlens+out+llm"]},
        }
    )


def rows(sizes: Sizes, config: RunConfig, rates: Rates) -> list[tuple[str, Cost, float, float]]:
    """(step, its cost, operations of products, operations of projections)"""
    found = []
    for name in config.stages:
        stage = STAGES[name]
        costs, fixed, one = (stage.costs(sizes, config, at) for at in (rates, EVERYWHERE, Rates(1.0, 1e40)))
        other = stage.costs(sizes, config, Rates(1e40, 1.0))
        for step, cost in costs.items():
            base = fixed[step].seconds
            found.append((step, cost, one[step].seconds - base, other[step].seconds - base))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=float, default=0.19e12, help="float32 matrix products, operations a second")
    parser.add_argument("--projections", type=float, default=0.3e12, help="those of projections, selection included")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", type=float, default=1e6, help="of the corpus")
    parser.add_argument("--explainer-prices", default="3,15", help="USD a million tokens read and written")
    arguments = parser.parse_args()
    config = configuration(arguments)
    rates = Rates(arguments.products, arguments.projections)
    for name, shape in SHAPES.items():
        sizes = shape._replace(corpus_tokens=arguments.tokens)
        weights = sizes.n_weights * 2 + sizes.n_layers * sizes.d_transcoder * sizes.d_model * 8
        print(f"\n### {name}\n\nModel (2 bytes a weight) and transcoders (float32): {weights / 1e9:,.0f} GB on disk.\n")
        print(
            "| step | tasks | 10^15 operations | hours | disk, GB | memory, GB | USD |\n|---|---|---|---|---|---|---|"
        )
        found = rows(sizes, config, rates)
        for step, cost, products, projections in found:
            numbers = (products + projections) / 1e15, cost.seconds / 3600, cost.disk_bytes / 1e9
            figures = " | ".join(f"{number:,.1f}" for number in (*numbers, cost.memory_bytes(config.engine) / 1e9))
            print(f"| {step} | {cost.n_tasks:,} | {figures} | {cost.usd:,.0f} |")
        total = [
            sum(column) for column in zip(*((c.seconds, c.disk_bytes, c.usd) for _, c, _, _ in found), strict=True)
        ]
        operations = sum(products + projections for _, _, products, projections in found)
        memory = max(cost.memory_bytes(config.engine) for _, cost, _, _ in found)
        figures = operations / 1e15, total[0] / 3600, total[1] / 1e9, memory / 1e9
        print(f"| **all** | | {' | '.join(f'{number:,.1f}' for number in figures)} | {total[2]:,.0f} |")


if __name__ == "__main__":
    main()
