"""What was asked of a checkpoint's model on prompts."""

from storage.catalog.columns import CHECKPOINT, Column, Table

TABLES = (
    Table(
        "interventions",
        "What one target did when features and heads of the model were changed on a prompt. Logits are less their mean "
        "over the vocabulary; a feature's value is its pre-activation.",
        ("checkpoint_id", "batch", "number", "target"),
        (
            CHECKPOINT,
            Column("batch", "VARCHAR", "The file of interventions: a short hash of its lines and the checkpoint."),
            Column("number", "INTEGER", "Line of the file, from 0."),
            Column("prompt", "VARCHAR", "The prompt."),
            Column("swap_from", "VARCHAR", "The prompt from which swaps are taken; null: none."),
            Column("intervention", "VARCHAR", "The changes, made together: 12/345=off, 5.3@-1=swap, …"),
            Column("target", "VARCHAR", "What is looked at."),
            Column("before", "DOUBLE", "Its value in the model as it is."),
            Column("predicted", "DOUBLE", "Its change by direct contributions, all else frozen."),
            Column("predicted_paths", "DOUBLE", "Its change by all paths through features that were active."),
            Column(
                "measured_frozen", "DOUBLE", "Its change with MLPs computed anew, attention patterns and norms frozen."
            ),
            Column("measured", "DOUBLE", "Its change in the model, nothing frozen."),
            Column("next_before", "VARCHAR", "The likeliest next token of the model as it is."),
            Column("next_after", "VARCHAR", "And with the changes."),
            Column("kl", "DOUBLE", "KL divergence of the next token from what it was, in nats."),
        ),
    ),
)
