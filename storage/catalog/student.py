"""Quantiles of Student's t in SQL, for the intervals of the catalog's views, since DuckDB has none."""

from statistics import NormalDist

MOST_COMPARISONS = 64

LEVEL = 0.05
"""Confidence level of two-sided intervals."""

_NORMAL = [NormalDist().inv_cdf(1 - LEVEL / 2 / k) for k in range(1, MOST_COMPARISONS + 1)]


def t_quantile(n: str, comparisons: str = "1") -> str:
    """SQL for the half-width of the 95% interval of a mean of `n` values, in standard errors.

    With `comparisons` such intervals (at most 64), all hold together with 95% probability (Bonferroni). Exact for two
    and three values; beyond, Cornish and Fisher's expansion about the normal quantile, which is at most 2% too small at
    four values and 16 comparisons, 0.3% at four values and one.
    """
    normal, nu = ", ".join(f"{z:.6f}" for z in _NORMAL), f"(({n}) - 1)::DOUBLE"
    z = f"([{normal}])[least({comparisons}, {MOST_COMPARISONS})]" if comparisons != "1" else f"{_NORMAL[0]:.6f}"
    tail = f"({LEVEL} / ({comparisons}))"
    expansion = f"""{z} + ({z}**3 + {z}) / (4 * {nu})
        + (5 * {z}**5 + 16 * {z}**3 + 3 * {z}) / (96 * {nu}**2)
        + (3 * {z}**7 + 19 * {z}**5 + 17 * {z}**3 - 15 * {z}) / (384 * {nu}**3)
        + (79 * {z}**9 + 776 * {z}**7 + 1482 * {z}**5 - 1920 * {z}**3 - 945 * {z}) / (92160 * {nu}**4)"""
    return f"""CASE WHEN ({n}) < 2 THEN NULL WHEN ({n}) = 2 THEN 1 / tan(pi() / 2 * {tail})
        WHEN ({n}) = 3 THEN sqrt(2 / ({tail} * (2 - {tail})) - 2) ELSE {expansion} END"""
