"""The base class of every section of the configuration: a frozen model that refuses unknown keys."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section. The string below a setting becomes its description in docs/configuration.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
