"""What every section of the configuration is: a frozen model that refuses keys it does not know."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section. The string under a setting is what docs/configuration.md says of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
