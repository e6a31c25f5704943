"""The science: tensors in, tensors out. No orchestration, no files, no logging."""
