"""Which language model a configuration has asked, and under which name its answers are kept."""

from typing import TYPE_CHECKING, Literal

from configs.run import RunConfig
from storage.answers import AnswerStore
from storage.recipes import fingerprints, short_hash
from storage.store import Store
from tasks.llm.anthropic_prices import priced

if TYPE_CHECKING:
    from tasks.llm.local_model import LocalModel

Who = Literal["tokens", "rule", "anthropic", "local"]
"""Who words or judges: by rule (tokens, rule), Claude, or a chat model of this machine."""


def model_name(config: RunConfig, store: Store, who: Who) -> str | None:
    """Under which name answers are kept; None where no language model is asked.

    Raises:
        ValueError: a model is asked for and not set.
    """
    if who == "anthropic":
        return priced(config.anthropic)[0]
    if who == "local":
        return local_model(config, store, "").model
    return None


def local_model(config: RunConfig, store: Store, run_id: str) -> "LocalModel":
    """The chat model of the configuration, not loaded yet.

    Raises:
        ValueError: none is set, or its folder holds no model.
    """
    from tasks.llm.local_model import LocalModel

    path = config.local_model.path
    if path is None:
        raise ValueError("local_model.path is not set: name the folder of a chat model")
    if not (path / "config.json").is_file():
        raise ValueError(f"local_model.path: {path} holds no config.json; name the folder of a chat model")
    files = [file for file in path.iterdir() if file.suffix in {".json", ".safetensors", ".jinja"}]
    return LocalModel(path, short_hash(files=fingerprints(store, files)), AnswerStore(store), run_id)
