"""Every preset is a configuration that finds its files in recorded listings, and what configurations refuse."""

import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from configs.load import load_config
from configs.remarks import remarks
from flows.costs.recorded import recorded_sizes
from flows.inputs.origin import transcoder_files
from storage import hub
from storage.formats import FORMATS
from storage.hub import COMMIT, RemoteFile
from tests.conftest import ROOT

LISTINGS = yaml.safe_load(Path(__file__).with_name("listings.yaml").read_text(encoding="utf-8"))
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
NAMED = ["model.path=model", "corpus.source=text.txt"]
NEEDED = {"stories260k": NAMED, "smollm2-135m": NAMED}


ON_THE_HUB = [path.stem for path in PRESETS if load_config(path, NEEDED.get(path.stem, [])).transcoder.repo]


def listing(repo: str) -> list[RemoteFile]:
    """The recorded files of a repository, with `{a,b}` and `{0..3}` written out."""
    names = [name for pattern in LISTINGS[repo] for name in expanded(pattern)]
    return [RemoteFile(name, 1, "") for name in names]


def expanded(pattern: str) -> list[str]:
    fixed, braces = re.split(r"\{[^}]*\}", pattern), re.findall(r"\{([^}]*)\}", pattern)
    choices = []
    for inside in braces:
        first, dots, last = inside.partition("..")
        choices.append([str(n) for n in range(int(first), int(last) + 1)] if dots else inside.split(","))
    return ["".join(part + one for part, one in zip(fixed, (*chosen, ""), strict=True)) for chosen in product(*choices)]


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_preset_names_one_transcoder_a_layer_of_its_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", [])
    assert config.transcoder.repo is not None
    monkeypatch.setattr(hub, "_files", lambda repo, _: listing(repo))
    chosen = [file.name for file in hub.select(config.transcoder.repo, "", transcoder_files(config.transcoder))]
    weights = [file for file in chosen if file.endswith((".safetensors", ".npz", ".pt"))]
    layers = [re.search(r"(?:layers?[._]|blocks\.)(\d+)", file) for file in weights]
    sizes = recorded_sizes(config)
    assert sizes is not None
    assert sorted(int(layer[1]) for layer in layers if layer) == list(range(sizes.n_layers))
    for file in chosen:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert sum(any(any(tmp_path.glob(p)) for p in known.patterns) for known in FORMATS) == 1


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_preset_reads_web_text_at_a_commit_and_no_more_than_a_cap(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", [])
    (source,) = config.corpus.sources
    match = re.fullmatch(r"hf://(datasets/[^/]+/[^@]+)@([^/]+)/(.+)", source)
    assert match is not None
    assert COMMIT.fullmatch(match[2])
    assert match[3] in [file.name for file in listing(match[1])]
    assert config.corpus.max_tokens == 24_000_000
    assert remarks(config) == []


def test_python_docs_for_a_model_that_has_read_more_is_remarked_on() -> None:
    (said,) = remarks(load_config(ROOT / "configs" / "gpt2.yaml", ["corpus.source=python-docs"]))
    assert "It cannot show what features do on other text" in said
    assert remarks(load_config(ROOT / "configs" / "demo.yaml", [])) == []


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


def test_a_frequency_that_leaves_no_room_for_the_active_features_is_refused() -> None:
    train = ["transcoder.train.d_transcoder=1024", "transcoder.train.activation=topk", "transcoder.train.k=32"]
    start = [*train, "model.path=m", "corpus.source=t.txt"]
    load_config(ROOT / "configs" / "smollm2-135m.yaml", [*start, "transcoder.train.max_frequency=0.06"])
    with pytest.raises(ValueError, match=r"k is 32, but 1024 features that fire at 0\.03 .* are only 30\.7 at a time"):
        load_config(ROOT / "configs" / "smollm2-135m.yaml", [*start, "transcoder.train.max_frequency=0.03"])


def test_a_preset_with_folders_of_ones_own() -> None:
    changes = ["model.repo=null", "model.path=m", "transcoder.repo=null", "transcoder.files=null", "transcoder.path=t"]
    config = load_config(ROOT / "configs" / "gpt2.yaml", changes)
    assert (config.model.path, config.transcoder.path) == (Path("m"), Path("t"))


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("on", True), ("off", False), ("false", False)])
def test_bfloat16_is_said_in_the_words_of_yaml(text: str, expected: object) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"engine.bfloat16={text}"])
    assert config.engine.bfloat16 == expected
