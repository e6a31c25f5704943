"""The configuration of a run as pydantic models, and the YAML presets beside them."""
