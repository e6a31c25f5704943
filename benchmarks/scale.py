"""What a run would take on models and machines that are not here, by the arithmetic of `plan`.

    python -m benchmarks.scale [--products 0.19e12] [--projections 0.3e12] [--workers 2] [--tokens 1e6]
                               [--explainer-prices 3,15] [--gpu-price 3] > table.md

Rates are operations a second of all workers together; `circuit-insights doctor` and `plan` measure those of a machine.
Operations are what a step's time grows by if both rates fall; what is left is reading, writing and Python, divided
among the workers. Prints Markdown.
"""

import argparse

from configs.run import RunConfig
from flows.costs.circuitlens import BYTES_PER_SAMPLE, sample_operations
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Heads, Sizes
from flows.describe_checkpoint import STAGES

SHAPES = {
    "GPT-2 small, 12 x 24,576": Sizes(12, 768, 50_257, 124e6, 24_576, 0, 0, Heads(12, 768, 768)),
    "Gemma-2-2B, 26 x 16,384": Sizes(26, 2304, 256_000, 2.6e9, 16_384, 0, 0, Heads(8, 2048, 1024)),
    "Gemma-2-9B, 42 x 16,384": Sizes(42, 3584, 256_000, 9.2e9, 16_384, 0, 0, Heads(16, 4096, 2048)),
    "Gemma-2-27B, 46 x 16,384": Sizes(46, 4608, 256_000, 27e9, 16_384, 0, 0, Heads(32, 4096, 2048)),
}

H100_BFLOAT16, REACHED = 989e12, 0.4
"""Operations a second of an H100's bfloat16 units, and the share of them that is supposed: not measured here."""

DEVICES = (1, 8, 64)

N_POS, SAMPLES = 128, 40
"""Tokens of a row, and samples of a feature, in the table of devices."""

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


PADDED = 1.9
"""How many times the operations of its own tokens a sample takes on a device, where all targets of a batch have as many
rows as the last one (SmolLM2's samples, ten of a sequence)."""


def of_devices(usd_an_hour: float, n_tokens: float) -> None:
    """Attribution of every feature on devices: counted operations over a supposed share of a device's peak."""
    hours = " | ".join(f"{n} H100, hours" for n in DEVICES)
    counted = "samples, 10⁶ | sequences, 10¹⁵ | sweeps, 10¹⁵ | direct, 10¹⁵"
    print(f"\n| model | {counted} | {hours} | USD | contributions, GB |")
    print("|---" * (7 + len(DEVICES)) + "|")
    for name, shape in SHAPES.items():
        n_samples = SAMPLES * shape.n_layers * shape.d_transcoder
        rows = min(n_tokens / N_POS, n_samples)
        once = rows * N_POS * (shape.model_flops + 2 * shape.n_layers * shape.d_transcoder * shape.d_model)
        sweeps = PADDED * n_samples * sample_operations(shape, N_POS, "bfloat16")
        direct = n_samples * sample_operations(shape, N_POS, "direct")
        took = (once + sweeps) / (H100_BFLOAT16 * REACHED) / 3600
        each = " | ".join(f"{took / n:,.2f}" for n in DEVICES)
        figures = f"{n_samples / 1e6:,.1f} | {once / 1e15:,.1f} | {sweeps / 1e15:,.0f} | {direct / 1e15:,.1f}"
        print(
            f"| {name} | {figures} | {each} | {took * usd_an_hour:,.0f} | {n_samples * BYTES_PER_SAMPLE / 1e9:,.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=float, default=0.19e12, help="float32 matrix products, operations a second")
    parser.add_argument("--projections", type=float, default=0.3e12, help="those of projections, selection included")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", type=float, default=1e6, help="of the corpus")
    parser.add_argument("--explainer-prices", default="3,15", help="USD a million tokens read and written")
    parser.add_argument("--gpu-price", type=float, default=3.0, help="USD for an hour of an H100")
    arguments = parser.parse_args()
    of_devices(arguments.gpu_price, arguments.tokens)
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
