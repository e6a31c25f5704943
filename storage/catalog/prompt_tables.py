"""Tables of experiments with a checkpoint's model on prompts."""

from storage.catalog.columns import CHECKPOINT, Column, Table

TABLES = (
    Table(
        "interventions",
        "The effect on one target of changing features and heads of the model on a prompt. Logits are minus their mean "
        "over the vocabulary; a feature's value is its pre-activation.",
        ("checkpoint_id", "batch", "number", "target"),
        (
            CHECKPOINT,
            Column("batch", "VARCHAR", "The file of interventions: a short hash of its lines and the checkpoint."),
            Column("number", "INTEGER", "Line of the file, from 0."),
            Column("prompt", "VARCHAR", "The prompt."),
            Column("swap_from", "VARCHAR", "The prompt from which swaps are taken; null: none."),
            Column("intervention", "VARCHAR", "The changes, made together: 12/345=off, 5.3@-1=swap, …"),
            Column("target", "VARCHAR", "The target that is measured."),
            Column("before", "DOUBLE", "Its value in the unchanged model."),
            Column("predicted", "DOUBLE", "Its change by direct contributions only, with all else frozen."),
            Column("predicted_paths", "DOUBLE", "Its change by all paths through features that were active."),
            Column(
                "measured_frozen", "DOUBLE", "Its change with MLPs computed anew, attention patterns and norms frozen."
            ),
            Column("measured", "DOUBLE", "Its change in the model with nothing frozen."),
            Column("next_before", "VARCHAR", "The most probable next token in the unchanged model."),
            Column("next_after", "VARCHAR", "The most probable next token with the changes."),
            Column("kl", "DOUBLE", "KL divergence of the next-token distribution from the unchanged model's, in nats."),
        ),
    ),
)
