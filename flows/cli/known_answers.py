"""`benchmark-descriptions`: test descriptions against known answers."""

from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.act import ConfigOption, opened
from flows.cli.app import (
    CheckpointOption,
    JsonOption,
    StoreOption,
    app,
    load,
    out,
    print_json,
    report_errors,
    store_root,
)
from flows.reports.tables import Table
from flows.running.progress import working
from interp.display import visible

if TYPE_CHECKING:
    from flows.known_answers import KnownAnswers
    from interp.activations.settings import ActivationSettings

N_CONFUSIONS = 20
"""Confusions printed in the table; --json gives all of them."""


@app.command("benchmark-descriptions")
def benchmark_descriptions(
    tokens: Annotated[int, typer.Option(min=1024, help="Largest number of tokens of held-out text.")] = 65_536,
    claims: Annotated[
        int, typer.Option(min=0, help="For each method, the number of descriptions of random features that are tested.")
    ] = 500,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Test descriptions against known answers: features that follow a concept which a program decides.

    About 250 concepts (digits, month names, a capital after a full stop, closing brackets, ‘the’ after ‘of’, …) label
    the tokens of held-out text. On one half of its documents, features are found whose activation follows one concept;
    a description is right if its words and contexts select that concept on the other half. Nothing is written.
    """
    with report_errors():
        named = opened(config, store, checkpoint)
        from flows.known_answers import Sizes, known_answers

        settings = _settings(config, store, checkpoint)
        with working("read held-out text and test descriptions"):
            found = known_answers(named, settings, Sizes(tokens, claims))
        if as_json:
            for row in _rows(found):
                print_json(row)
        else:
            _print(found)


def _settings(config: Path | None, store: str | None, checkpoint: str | None) -> "ActivationSettings":
    """Which tokens count, by the settings of the checkpoint's runs."""
    from flows.one_prompt.opened import last_config

    used = last_config(store_root(store), checkpoint) if config is None else load(config, None, store)
    return used.activations


def _rows(found: "KnownAnswers") -> Iterator[dict[str, object]]:
    """All results as rows; the column `kind` says what a row is about."""
    sizes = {"n_tokens": found.n_tokens, "is_held_out": found.is_held_out, "n_features": found.n_features}
    yield {"kind": "text", **sizes, "n_known": len(found.known), "concepts": found.concepts}
    for follower in found.known:
        yield {"kind": "feature", **follower._asdict()}
    for method in found.methods:
        yield {"kind": "method", **{name: _none(value) for name, value in method._asdict().items()}}
    for confusion in found.confusions:
        yield {"kind": "confusion", **confusion._asdict()}
    for name, many in found.misread.items():
        for one in many:
            yield {"kind": "misread", "method": name, **one._asdict()}
    yield {"kind": "distances", **{name: _none(value) for name, value in found.distances._asdict().items()}}


def _none(value: object) -> object:
    return None if isinstance(value, float) and isnan(value) else value


def _print(found: "KnownAnswers") -> None:
    text = "held-out text" if found.is_held_out else "the text that descriptions were made from (nothing is held out)"
    held = [one for one in found.known if one.area_test > 0.95 and one.precision_test >= 0.5]
    out.print(
        f"{found.n_tokens} tokens of {text}; {len(found.concepts)} concepts; {found.n_features} active features, of "
        f"which {len(found.known)} follow a concept on one half and {len(held)} on the other too"
    )
    table = Table(
        "method", "features", "right", "95% interval", "recall", "precision", "shuffled", "maxact there", "claims",
        "true claims", title="Descriptions of features with known meaning",
    )  # fmt: skip
    for one in found.methods:
        low, high = one.right_interval
        table.add_row(
            visible(one.method), str(one.n), _share(one.right), f"{low:.2f}-{high:.2f}", _share(one.recall),
            _share(one.precision), _share(one.shuffled), _share(one.baseline), str(one.n_claims),
            _share(one.true_claims),
        )  # fmt: skip
    out.print(table)
    wrong = Table("method", "concept", "said", "features", title="Wrong descriptions")
    for confusion in sorted(found.confusions, key=lambda one: -one.n)[:N_CONFUSIONS]:
        wrong.add_row(visible(confusion.method), confusion.concept, confusion.taken_for, str(confusion.n))
    out.print(wrong)
    near = found.distances
    if near.n:
        out.print(
            f"Source tokens at {near.n} distances named by clusters: AUROC {near.named:.3f}, at other features' "
            f"distances {near.others:.3f}; difference {near.difference:.3f} ± {near.reach:.3f}; the best of all for "
            f"{near.best:.0%}"
        )


def _share(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"
