"""The language model that a configuration asks, and the name under which its answers are stored."""

from typing import TYPE_CHECKING, Literal

from configs.run import RunConfig
from flows.inputs.machine import arithmetic
from interp.descriptions.llm_questions import Purpose
from storage.answers import AnswerStore
from storage.hashing import fingerprints, short_hash
from storage.store import Store

if TYPE_CHECKING:
    from tasks.llm.endpoint import Endpoint
    from tasks.llm.local_model import LocalModel

Who = Literal["tokens", "rule", "anthropic", "openai", "local"]
"""Explainers and judges: by rule (tokens, rule), Claude, a server with OpenAI's chat completions API, or a chat model
in this process."""


EXPLAINING: tuple[Purpose, ...] = ("explain", "join")
"""Kinds of questions for descriptions."""

JUDGING: tuple[Purpose, ...] = ("synthesise", "rate", "mark", "intruder", "simulate")
"""Kinds of questions for judging."""


def prompts(config: RunConfig, purposes: tuple[Purpose, ...]) -> dict[str, tuple[str, str]]:
    """The part of a recipe for the instructions of some kinds of questions: versions and hashes.

    Raises:
        ValueError: a user's own file cannot be read, or its placeholders are not those expected.
    """
    from tasks.llm.instructions import prompt_file

    return {purpose: prompt_file(purpose, config.prompts.own[purpose]).identity for purpose in purposes}


def model_name(config: RunConfig, store: Store, who: Who) -> str | None:
    """The name under which answers are stored; None if no language model is asked.

    Raises:
        ValueError: a model is needed and not set, or its prices are not known.
    """
    if who == "local":
        return local_model(config, store, "").model
    endpoint = endpoint_for(config, who)
    return None if endpoint is None else endpoint.model


def endpoint_for(config: RunConfig, who: Who) -> "Endpoint | None":
    """The server that is asked; None for rules and for a model in this process.

    Raises:
        ValueError: the model is not set, its prices are not known, or the address is not valid.
    """
    if who == "anthropic":
        from tasks.llm.anthropic_endpoint import AnthropicEndpoint  # imported here because it takes a second

        return AnthropicEndpoint(config.anthropic, config.llm)
    if who == "openai":
        from tasks.llm.openai_endpoint import OpenAIEndpoint

        return OpenAIEndpoint(config.openai, config.llm)
    return None


def local_model(config: RunConfig, store: Store, run_id: str) -> "LocalModel":
    """The chat model of the configuration, not loaded yet.

    Raises:
        ValueError: none is set, or its folder has no model.
    """
    from tasks.llm.local_model import LocalModel, chat_folder

    path = chat_folder(config.local_model.path)
    files = [file for file in path.iterdir() if file.suffix in {".json", ".safetensors", ".jinja"}]
    fingerprint = short_hash(files=fingerprints(store, files))
    device, at_once = arithmetic(config.engine).device, config.local_model.at_once
    return LocalModel(path, fingerprint, AnswerStore(store), run_id, device=device, at_once=at_once)


def check_can_ask(config: RunConfig, who: Who) -> None:
    """Check everything that asking a language model needs, as far as it can be checked on this machine.

    Raises:
        ValueError: a setting or the key is missing, the budget is 0, or the folder has no chat model.
    """
    if who not in ("tokens", "rule"):
        prompts(config, (*EXPLAINING, *JUDGING))
    if who == "local":
        from tasks.llm.local_model import check_chat_model

        check_chat_model(config.local_model.path)
    endpoint = endpoint_for(config, who)
    if endpoint is not None:
        endpoint.check_key()
        costs = endpoint.prices.input or endpoint.prices.output
        if costs and not config.llm.budget_usd:
            raise ValueError(f"llm.budget_usd is 0, so {endpoint.model} may not be asked; set the limit for a run")


def check_answers(config: RunConfig, who: Who) -> None:
    """Also check that the server accepts the key and knows the model, which is free of charge.

    Raises:
        ValueError: it does not, or cannot be reached.
    """
    check_can_ask(config, who)
    endpoint = endpoint_for(config, who)
    if endpoint is not None:
        endpoint.check()
