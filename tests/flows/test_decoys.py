"""The run of decoys is that of the real features, with other transcoders."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.load import load_config
from flows.decoys import DecoyRun
from tests.conftest import ROOT


def test_decoys_of_some_layers_are_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecoyRun, "job", SimpleNamespace(folder=lambda _: Path("decoys")))
    config = load_config(ROOT / "configs" / "demo.yaml", ["transcoder.only_layers=[1, 3]", "evaluate.decoys=2"])
    plan: Any = SimpleNamespace(config=config, store=None)
    made = DecoyRun(plan).config
    assert made.transcoder.only_layers == config.transcoder.only_layers
    assert made.transcoder.path == Path("decoys")
    assert made.evaluate.decoys == 0
