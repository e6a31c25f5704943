"""What a run can be told: pydantic models, and the YAML presets beside this file."""
