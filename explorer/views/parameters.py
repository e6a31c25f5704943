"""Parameters of addresses, with their bounds: values outside them are refused with a sentence."""

from typing import Annotated

from fastapi import Path, Query

Checkpoint = Annotated[str, Path(max_length=100, description="Id or name of the checkpoint.")]
Layer = Annotated[int, Path(ge=0, le=1000, description="Layer, from 0.")]
Feature = Annotated[int, Path(ge=0, le=100_000_000, description="Feature of the layer, from 0.")]
Corpus = Annotated[str | None, Query(max_length=100, description="Id of the corpus; else the one read last.")]
