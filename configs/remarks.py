"""What to know of a configuration before it runs: nothing is wrong with it, but it may not do what is hoped for."""

from configs.run import RunConfig

PYTHON_DOCS = "python-docs"


def remarks(config: RunConfig) -> list[str]:
    """A sentence or two for each; none of a configuration that does what its reader will expect."""
    found = []
    if PYTHON_DOCS in config.corpus.sources and config.model.repo is not None:
        found.append(
            f"corpus.source is {PYTHON_DOCS}, half a million tokens of Python's documentation. That measures the "
            "transcoders and tries out every stage without a network. It cannot show what features do on other text: "
            "those that fire on anything else will seem dead, others will be described by the documentation alone, "
            "and no judgement on it is comparable with published ones"
        )
    return found
