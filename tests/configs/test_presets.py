"""Every preset is a configuration, and what configurations refuse."""

from pathlib import Path

import pytest

from configs.run import load_config
from flows.subject.origin import transcoder_files
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
NAMED = ["model.path=model", "corpus.source=text.txt"]
NEEDED = {"stories260k": NAMED, "smollm2-135m": NAMED}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_load(path: Path) -> None:
    config = load_config(path, NEEDED.get(path.stem, []))
    assert config.name == path.stem
    assert config.store == ROOT / "store" / path.stem


def test_presets_have_the_settings_of_the_paper() -> None:
    gpt2, gemma, llama = (
        load_config(ROOT / "configs" / f"{n}.yaml", []) for n in ("gpt2", "gemma-2-2b", "llama-3.2-1b")
    )
    for config, z_tokens in ((gpt2, 4.0), (gemma, 4.5), (llama, 4.5)):
        settings = config.weightlens
        assert (settings.mode, settings.z_tokens, settings.z_features, settings.compat) == (
            "paper",
            z_tokens,
            3.0,
            None,
        )
    assert gpt2.weightlens.upstream_layers(5) == [0]
    assert [config.model.bos for config in (gpt2, gemma, llama)] == ["none", "auto", "auto"]
    layers = [name.split("/")[0] for name in transcoder_files(gemma.transcoder)]
    assert layers == [f"layer_{layer}" for layer in range(26)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.path=folder"], "model: set path or repo, not both; model.repo=null drops"),
        (["model.repo=null"], "model.path is not set"),
        (["model.repo=a/b/c"], "model.repo: String should match pattern"),
        (["transcoder.path=folder"], "transcoder: set path or repo, not both"),
        (["transcoder.repo=null"], "files is about a repo, and none is set; transcoder.files=null drops it"),
        (["transcoder.repo=null", "transcoder.files=null"], "set either path (a release) or train"),
        (["transcoder.train={}"], "set either path (a release) or train"),
        (["transcoder.files=[]"], "transcoder.files: Tuple should have at least 1 item"),
        (["model.repo=null", "model.path=folder", "model.revision=v2"], "revision is about a repo"),
    ],
)
def test_origins_that_do_not_fit(changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"gpt2\.yaml") as error:
        load_config(ROOT / "configs" / "gpt2.yaml", changes)
    assert message in str(error.value)


def test_a_preset_with_folders_of_ones_own() -> None:
    changes = ["model.repo=null", "model.path=m", "transcoder.repo=null", "transcoder.files=null", "transcoder.path=t"]
    config = load_config(ROOT / "configs" / "gpt2.yaml", changes)
    assert (config.model.path, config.transcoder.path) == (Path("m"), Path("t"))


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("on", True), ("off", False), ("false", False)])
def test_bfloat16_is_said_in_the_words_of_yaml(text: str, expected: object) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"engine.bfloat16={text}"])
    assert config.engine.bfloat16 == expected
