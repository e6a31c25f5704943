"""Change a model and measure the effects: `steer` and `intervene`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from flows.cli.app import (
    CheckpointOption,
    JsonOption,
    StoreOption,
    TargetOption,
    app,
    err,
    load,
    out,
    print_json,
    report_errors,
    store_root,
)
from flows.reports.tables import Table
from interp.display import visible

if TYPE_CHECKING:
    from flows.one_prompt.intervene import Intervened
    from flows.one_prompt.opened import Opened
    from flows.one_prompt.steer import Steered, Written

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default: that of the checkpoint's last run.")
]
FeatureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        help="LAYER/FEATURE=VALUE, or LAYER/FEATURE@POSITIONS=VALUE. VALUE: a number (held at it), 2x (times its "
        "greatest activation on the corpus), off, LOW..HIGH (kept within), add:N. May be given several times.",
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="The prompt is a user's message, in the tokenizer's chat template.")]


def opened(config: Path | None, store: str | None, checkpoint: str | None) -> "Opened":
    """Open the checkpoint that a command names, with its model."""
    from flows.one_prompt.opened import open_configured, open_named

    if config is not None and checkpoint is not None:
        raise ValueError("--checkpoint: --config already names the checkpoint; give one of the two")
    err.print("opening the model", style="dim")
    return open_named(store_root(store), checkpoint) if config is None else open_configured(load(config, None, store))


@app.command()
def steer(
    prompt: Annotated[list[str] | None, typer.Argument(help="Text to continue; several texts are one batch.")] = None,
    feature: FeatureOption = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with a prompt on each line, instead.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Length of the continuation in tokens.")] = 40,
    temperature: Annotated[
        float, typer.Option(help="Temperature of sampling; 0: always the most probable token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample among the most probable tokens that together have this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    chat: Chat = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Continue prompts with features changed, and without.

    A feature is changed at every token of the prompt and of the continuation, or at POSITIONS: a position (-1 is the
    prompt's last), START:STOP, or `generated`, which is from the prompt's last token on.
    """
    with report_errors():
        from flows.one_prompt.asked import asked_feature
        from flows.one_prompt.opened import check_prompt
        from flows.one_prompt.steer import Generation
        from flows.one_prompt.steer import steer as run

        texts = [*(prompt or []), *(_lines(prompts) if prompts is not None else [])]
        for text in texts or [""]:
            check_prompt(text)
        asked = [asked_feature(text) for text in feature or []]
        if not asked:
            raise ValueError("--feature: name one to change, like --feature 12/345=8")
        found = run(
            opened(config, store, checkpoint), texts, asked, Generation(new_tokens, temperature, top_p, seed), chat=chat
        )
        for one in found:
            print_json(one) if as_json else _print_steered(one)


@app.command()
def intervene(
    prompt: Annotated[str, typer.Argument(help="Text on which features and heads are changed.")],
    feature: FeatureOption = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="LAYER.HEAD=VALUE, or LAYER.HEAD@POSITIONS=VALUE. VALUE: off, 0.5x (scaled), mean, swap."),
    ] = None,
    target: TargetOption = None,
    swap_from: Annotated[
        str | None, typer.Option(help="Another prompt, which gives the activations for features and heads with =swap.")
    ] = None,
    chat: Chat = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Change features and heads on a prompt: the effect on targets as the graph predicts it, and as the model shows it.

    All changes are made together. POSITIONS: a position (-1 is the last), or START:STOP; default: the whole prompt.
    There are two predictions: by direct contributions only, and by all paths through features that were active. There
    are two measurements: with attention patterns and norms frozen, and with nothing frozen.
    """
    with report_errors():
        from flows.one_prompt.asked import asked_feature, asked_head
        from flows.one_prompt.intervene import Question
        from flows.one_prompt.intervene import intervene as run
        from flows.one_prompt.opened import check_prompt

        check_prompt(prompt)
        if swap_from is not None:
            check_prompt(swap_from)
        asked = [*map(asked_feature, feature or []), *map(asked_head, head or [])]
        if not asked:
            raise ValueError("--feature, --head: name one to change, like --feature 12/345=off")
        question = Question(prompt, tuple(target or ()), swap_from)
        for one in run(opened(config, store, checkpoint), question, [asked], chat=chat):
            print_json(one) if as_json else _print_intervened(one)


@app.command("intervene-batch")
def intervene_batch(
    file: Annotated[
        Path,
        typer.Argument(help='JSONL: {"prompt": "…", "changes": ["12/345=off"], "targets": [" Paris"]} on each line.'),
    ],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Make thousands of interventions, each on its own prompt, and store the results in the table `interventions`.

    A line's `changes` are written as for `intervene`, features and heads in one list; `targets` and `swap_from` are
    optional. The command is a run: it locks the store, can be killed at any moment, and skips finished lines.
    """
    with report_errors():
        from flows.intervene_batch import run_batch

        batch = run_batch(store_root(store), checkpoint, file)
        out.print(f"batch {batch} in the table interventions")


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"--prompts: {file} is not UTF-8 text") from None


def _print_steered(one: "Steered") -> None:
    for sentence in one.said:
        err.print(sentence, style="dim", markup=False)
    out.print(Text.assemble(("prompt    ", "bold cyan"), visible(one.prompt)), soft_wrap=True)
    for name, written in (("original  ", one.original), ("steered   ", one.steered)):
        out.print(Text.assemble((name, "bold cyan"), visible(written.text)), soft_wrap=True)
    out.print(
        f"KL divergence of the next token {one.kl_next:.3g} nats, mean over the original text {one.kl_mean:.3g} a token"
    )
    out.print(_likelihoods(one.original, "Original, token by token"))
    out.print(_likelihoods(one.steered, "Steered, token by token"))


def _likelihoods(written: "Written", title: str) -> Table:
    table = Table("token", "probability", "steered", title=title)
    for one in written.tokens:
        table.add_row(visible(one.token), f"{one.probability:.3f}", f"{one.steered_probability:.3f}")
    return table


def _print_intervened(one: "Intervened") -> None:
    for sentence in one.said:
        err.print(sentence, style="dim", markup=False)
    table = Table(
        "target", "before", "predicted, direct", "predicted, all paths", "measured, attention and norms frozen",
        "measured", title=", ".join(one.interventions),
    )  # fmt: skip
    for effect in one.effects:
        figures = (effect.predicted, effect.predicted_paths, effect.measured_frozen, effect.measured)
        table.add_row(visible(effect.target), f"{effect.before:.4g}", *(f"{value:+.4g}" for value in figures))
    out.print(table)
    before = f"{visible(one.next_before)} ({one.probability_before:.1%})"
    after = f"{visible(one.next_after)} ({one.probability_after:.1%})"
    out.print(f"next token: {before} before, {after} after; KL divergence {one.kl:.3g} nats", markup=False)
