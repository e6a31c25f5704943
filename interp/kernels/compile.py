"""Compile the loops that every run needs: `python -m interp.kernels.compile`.

Otherwise a loop is compiled when it is first called, which takes a second or more each; the result is kept beside the
source for later processes. Set-up calls this, so that a first run starts at once. Loops that are missing in
`SIGNATURES` are compiled when they are first called.
"""

from typing import Protocol, cast

from interp.kernels import activations, attribution, coactivation, entries, sampling, selection


class Compiled(Protocol):
    """A function compiled by numba."""

    def compile(self, sig: str) -> object:
        """Compile it for arguments of these types, or read what was compiled before."""
        ...


SIGNATURES: dict[object, tuple[str, ...]] = {
    activations.compress: tuple(
        f"(float32[:, ::1], float32[::1], float32[::1], {token}[::1], int64, {token}[::1], int32[::1], float32[::1])"
        for token in ("uint16", "uint32", "int32")
    ),
    activations.compress_top: tuple(
        f"(float32[:, ::1], float32[::1], int64, {token}[::1], {token}[::1], int32[::1], float32[::1])"
        for token in ("uint16", "uint32", "int32")
    ),
    activations.rescore: (
        "(float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], uint16[::1], int64, uint16[::1], int32[::1], "
        "float32[::1])",
    ),
    attribution.add_heads: ("(float32[:, :, ::1], float32[:, :, ::1], int64[::1], float32[:, ::1], int64[::1])",),
    attribution.add_tokens: ("(float32[:, ::1], float32[:, ::1], int64[::1], float32[::1])",),
    attribution.mix: ("(float32[:, :, ::1], float32[:, ::1], int64[::1], float32[:, ::1])",),
    attribution.read: (
        "(float32[:, ::1], int64[::1], float32[::1], int64[::1], float32[:, ::1], int64[::1], float32[:, ::1])",
    ),
    attribution.read_tokens: ("(float32[:, ::1], float32[:, ::1], int64[::1], float32[:, ::1])",),
    attribution.write: ("(float32[:, ::1], int64[::1], float32[::1], int64[::1], float32[:, ::1])",),
    coactivation.add_coactive: (
        "(int64[::1], int64[::1], float32[::1], int32[::1], int32[::1], float32[::1], float64[:, :, ::1])",
        "(int64[::1], uint16[::1], float32[::1], int32[::1], int32[::1], float32[::1], float64[:, :, ::1])",
    ),
    coactivation.add_edges: (
        "(int64[::1], int64[::1], int64[::1], uint16[::1], float32[::1], int64[::1], uint16[::1], float32[::1], "
        "int64[::1], float64[:, ::1], float64[:, ::1])",
    ),
    coactivation.add_targets: (
        "(int64[::1], uint16[::1], float32[::1], int64[::1], float64[:, ::1], float64[:, ::1])",
    ),
    coactivation.by_token: (
        "(int64[::1], int64[::1], float32[::1], int64, int32[::1], float32[::1])",
        "(int64[::1], uint16[::1], float32[::1], int64, int32[::1], float32[::1])",
    ),
    coactivation.end_edges: ("(float64[:, ::1], float64[:, ::1])",),
    coactivation.end_targets: ("(float64[:, ::1], float64[:, ::1])",),
    entries.append: ("(int64[::1], int64[::1], uint16[::1], int64, float32[::1], int64[::1], float32[::1])",),
    entries.by_feature: (
        "(uint16[::1], int32[::1], float32[::1], int64, uint16[::1], float32[::1])",
        "(uint32[::1], int32[::1], float32[::1], int64, uint32[::1], float32[::1])",
        "(int32[::1], int32[::1], int32[::1], int64, int32[::1], int32[::1])",
    ),
    entries.from_gaps: ("(int64[::1], uint16[::1], int64, uint16[::1])",),
    entries.gaps: ("(int64[::1], uint16[::1], uint16[::1])",),
    sampling.draw: (
        "(int64[::1], int64[::1], float32[::1], float32[::1], int64, int64, int64, float64, int64, int64, int64)",
    ),
    sampling.moments: ("(int64[::1], float32[::1])",),
    sampling.uniform: ("(int64, int64, int64, int64)",),
    selection.beyond: ("(int64[:, ::1], float64[::1], float64[::1], float64)",),
    selection.columns_of: ("(int64[:, ::1],)",),
    selection.fold: (
        "(float32[:, ::1], int32[:, ::1], int64, int64, int64[:, :, ::1], int64[:, ::1], float32[:, ::1], "
        "int32[:, :, ::1], float64[:, ::1], float64[:, ::1])",
    ),
    selection.least_score: ("(int64[:, ::1],)",),
    selection.moments: ("(int64[:, ::1],)",),
    selection.trim: ("(int64[:, ::1], int64[::1], float32[::1], int64)",),
}
"""The argument types with which the demo's run calls each loop."""


def compile_all() -> int:
    """Compile every loop of `SIGNATURES`; returns how many variants there are."""
    for loop, signatures in SIGNATURES.items():
        for signature in signatures:
            cast(Compiled, loop).compile(signature)
    return sum(map(len, SIGNATURES.values()))


if __name__ == "__main__":
    print(f"{compile_all()} compiled loops")
