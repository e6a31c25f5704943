"""How a run is carried out: its workers and device, a chat model on this machine, and the program that is notified."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section


class EngineConfig(Section):
    """How tasks are distributed over this machine or a cluster."""

    runner: Literal["threads", "dask"] = "threads"
    """threads: in this process (on Linux, larger amounts of describing, clustering, judging and scoring run in
    processes of their own); dask: worker processes of a Dask cluster."""
    workers: Annotated[int, Field(gt=0)] | None = None
    """Tasks that run at the same time; left out: one for each core, or one for each thread of a running Dask cluster's
    workers."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+|mps)$")] = "auto"
    """Where every stage computes and `local_model` answers: on a GPU if PyTorch sees one (auto), cpu, cuda, one of
    several GPUs (cuda:1), or mps (Apple's)."""
    devices: Literal["all"] | Annotated[int, Field(gt=0)] | None = None
    """With `runner: dask`, the number of this machine's NVIDIA GPUs to use at the same time, each with a worker process
    of its own, or all. Left out: one worker for each core."""
    bfloat16: Literal["auto"] | bool = "auto"
    """Find outliers and active features by bfloat16 products and score them again in float32. The results are the same,
    and come sooner on processors with bfloat16 arithmetic. auto: if this machine's processor has it."""
    dask_address: str | None = None
    """Address of a running Dask scheduler; left out: a local cluster is started for the run."""


class LocalModelConfig(Section):
    """A chat model on this machine, for `explainer: local` and `judge: local`."""

    path: Path | None = None
    """Folder in transformers format, with safetensors weights and a tokenizer that has a chat template."""
    at_once: Annotated[int, Field(gt=0)] = 8
    """Questions answered in one batch; reduced on a GPU without room for them."""


class NotifyConfig(Section):
    """A program that is run whenever a stage ends or fails."""

    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The program and its arguments, run after every stage and when one fails, without a shell. It gets one JSON object
    on its standard input: event (stage.finished or stage.failed), run_id, name, checkpoint_id, corpus_id, stage,
    recipe, error. It may take 30 seconds; if it fails, the run goes on."""
