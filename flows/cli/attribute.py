"""The attribution graph of a prompt: `attribute`."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import (
    CheckpointOption,
    StoreOption,
    TargetOption,
    app,
    err,
    load,
    out,
    report_errors,
    store_root,
)


def _prompt(prompt: str | None, file: Path | None) -> str:
    """The text that a command is about, from its argument, a file or standard input.

    Raises:
        ValueError: none is given or two are, or the file is not UTF-8 text.
    """
    if (prompt is None) == (file is None):
        raise ValueError("give one prompt: as the argument (- for standard input), or with --prompt-file")
    if file is None:
        return sys.stdin.read() if prompt == "-" else str(prompt)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompt-file: {file} is not UTF-8 text: byte {error.start} is not valid") from None


@app.command()
def attribute(
    prompt: Annotated[
        str | None, typer.Argument(help="Text whose next token is explained; - reads it from standard input.")
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A file with the text, instead.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts, whose graphs are stored in the catalog. Each line of a .jsonl file is "
            '{"prompt": "…", "set": "…", "targets": ["…"], "counterfactual": "…"}; each line of any other file is a '
            "prompt."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="NAME.json, for one prompt; NAME becomes the graph's slug.")
    ] = None,
    target: TargetOption = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Test the strongest nodes and edges by interventions in the model.")
    ] = False,
    supernodes: Annotated[
        bool, typer.Option("--supernodes", help="Group nodes with the same role, and test the groups in the model.")
    ] = False,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads", help="Name the heads that carry the strongest edges between tokens, and why they attended there."
        ),
    ] = False,
    counterfactual: Annotated[
        str | None,
        typer.Option(
            help="For --supernodes: another prompt with the same number of tokens and another answer, with which "
            "sufficiency is measured."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message, in the tokenizer's chat template.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: that of the checkpoint's last run.")
    ] = None,
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    max_logits: Annotated[
        int, typer.Option(help="Largest number of next tokens that are explained, if no target is given.")
    ] = 10,
    logit_share: Annotated[float, typer.Option(help="Probability that these next tokens together have.")] = 0.95,
    max_features: Annotated[
        int, typer.Option(help="Number of features that are attributed, the most influential first.")
    ] = 7500,
    max_memory: Annotated[
        float,
        typer.Option(
            help="Memory for edges in GB. If more is needed, fewer features are attributed and only the strongest "
            "edges are kept."
        ),
    ] = 8.0,
    node_threshold: Annotated[float, typer.Option(help="Share of all influence that the kept nodes have.")] = 0.8,
    edge_threshold: Annotated[float, typer.Option(help="Share of all influence that the kept edges have.")] = 0.98,
) -> None:
    """Write the attribution graph of a prompt, in circuit-tracer's format.

    Named targets have equal weight, probable tokens are weighted by their probability. With --prompts the command is a
    run that stores the graphs in the catalog: it can be killed at any moment, and skips finished prompts.
    """
    with report_errors():
        from flows import attribute as flow
        from flows.one_prompt.graphs import check_asked
        from flows.one_prompt.opened import check_prompt, open_configured, open_named
        from flows.reports.graph_heads import heads_of
        from flows.reports.graph_tests import tests_of
        from interp.circuitlens.graph import GraphSettings
        from interp.circuitlens.loadings import LoadingSettings
        from interp.circuitlens.supernodes import SupernodeSettings
        from interp.interventions.validation import ValidationSettings

        if config is not None and checkpoint is not None:
            raise ValueError("--checkpoint: --config already names the checkpoint; give one of the two")
        settings = GraphSettings(max_logits, logit_share, max_features, node_threshold, edge_threshold, max_memory)
        wanted = flow.Wanted(
            settings,
            ValidationSettings() if validate else None,
            SupernodeSettings() if supernodes else None,
            LoadingSettings() if heads else None,
        )
        if prompts is not None:
            for name, given in (("PROMPT", prompt), ("--prompt-file", prompt_file), ("--output", output),
                                ("--config", config), ("--counterfactual", counterfactual)):  # fmt: skip
                if given is not None:
                    raise ValueError(f"{name} has no effect with --prompts")
            from flows.attribute_prompts import TABLES, read_prompts, run_prompts

            lines = read_prompts(prompts, target or (), chat=chat)
            batch = run_prompts(store_root(store), checkpoint, prompts, lines, wanted)
            out.print(f"batch {batch} in the tables {', '.join(sorted(TABLES))}")
            return
        if output is None:
            raise ValueError("--output: name a file, NAME.json, for the graph")
        flow.check_output(output)
        text = _prompt(prompt, prompt_file)
        check_prompt(text)
        asked = flow.Asked(text, tuple(target or ()), chat, counterfactual)
        check_asked(asked, wanted)
        tell = partial(err.print, style="dim", markup=False)
        tell("opening the model")
        opened = (
            open_named(store_root(store), checkpoint) if config is None else open_configured(load(config, None, store))
        )
        graph = flow.attribute(opened, asked, output, wanted, tell)
        scores = flow.whole_scores(graph)
        said = f"{len(graph['nodes'])} nodes, {len(graph['links'])} edges"
        said += f"; replacement score {scores.replacement:.3f}, completeness score {scores.completeness:.3f}"
        out.print(f"{output}: {said}", soft_wrap=True, markup=False)
        for part in (*tests_of(graph), *heads_of(graph)):
            out.print(part, soft_wrap=True)
