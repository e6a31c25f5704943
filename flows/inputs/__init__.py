"""The inputs of a configuration: where model and transcoders come from, which checkpoint, which series."""
