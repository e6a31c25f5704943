"""Remarks on a configuration before it runs: it is valid, but may not do what the user expects."""

from configs.run import RunConfig

PYTHON_DOCS = "python-docs"


def remarks(config: RunConfig) -> list[str]:
    """One or two sentences for each remark; empty if there is none."""
    found = []
    if PYTHON_DOCS in config.corpus.sources and config.model.repo is not None:
        found.append(
            f"corpus.source is {PYTHON_DOCS}, half a million tokens of Python's documentation. That measures the "
            "transcoders and tries out every stage without a network. It cannot show what features do on other text: "
            "those that fire on anything else will seem dead, others will be described by the documentation alone, "
            "and no judgement on it is comparable with published ones"
        )
    return found
