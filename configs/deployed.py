"""A YAML configuration as the parameter of a deployment: `make deploy` calls it as a build step of prefect.yaml."""

from pathlib import Path

from configs.load import PATHS, load_config


def deployed(path: str) -> dict[str, object]:
    """The content of a file of `configs/` as `{"config": …}`. Paths below the working directory (the checkout) are made
    relative to it, so that a worker elsewhere finds them in its own checkout.

    Raises:
        ValueError: the file is not a configuration.
    """
    values = load_config(Path(path), []).model_dump(mode="json", exclude_unset=True)
    for name in PATHS:
        *sections, key = name.split(".")
        section: object = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and key in section:
            section[key] = _relative(section[key])
    return {"config": values}


def _relative(value: object) -> object:
    if isinstance(value, list):
        return [_relative(one) for one in value]
    if isinstance(value, str) and Path(value).is_relative_to(Path.cwd()):
        return Path(value).relative_to(Path.cwd()).as_posix()
    return value
