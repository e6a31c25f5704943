"""Find a checkpoint of the catalog by id or name."""

from typing import NamedTuple

import duckdb


class Chosen(NamedTuple):
    """A checkpoint of the catalog."""

    checkpoint_id: str
    name: str
    n_layers: int
    d_transcoder: int
    layers: tuple[int, ...]
    """The ingested layers."""

    def no_feature(self, layer: int, feature: int) -> str | None:
        """Why there is no such feature, in words; None if it exists."""
        if not (0 <= layer < self.n_layers and 0 <= feature < self.d_transcoder):
            return (
                f"no feature {feature} in layer {layer}: {self.name} has layers 0-{self.n_layers - 1}, "
                f"features 0-{self.d_transcoder - 1}"
            )
        return None if layer in self.layers else not_ingested(self.name, layer, self.layers)


def not_ingested(name: str, layer: int, layers: tuple[int, ...]) -> str:
    """The message for a layer of the model that was not ingested."""
    there = ", ".join(map(str, layers))
    return f"layer {layer} is not ingested: {name} has layers {there}, by transcoder.only_layers"


def chosen_checkpoint(connection: duckdb.DuckDBPyConnection, wanted: str | None) -> Chosen:
    """The checkpoint with this id or name, or the only one with real features.

    Raises:
        ValueError: none fits, or several do.
    """
    query = "SELECT checkpoint_id, name, n_layers, d_transcoder, layers FROM checkpoints"
    known = connection.execute(query).fetchall()
    fake = {row[0] for row in connection.execute("SELECT DISTINCT decoy_checkpoint_id FROM decoys").fetchall()}
    rows = [row for row in known if (row[0] not in fake if wanted is None else wanted in row[:2])]
    if len(rows) != 1:
        names = ", ".join(f"{row[0]} ({row[1]})" for row in known) or "none"
        raise ValueError(f"--checkpoint: name one of {names}; found {len(rows)} that fit '{wanted or ''}'")
    checkpoint_id, name, n_layers, d_transcoder, layers = rows[0]
    every = range(n_layers or 0) if layers is None else layers
    return Chosen(checkpoint_id, name, n_layers, d_transcoder, tuple(every))
