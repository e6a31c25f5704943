"""What a configuration names: where model and transcoders come from, which checkpoint, which series."""
