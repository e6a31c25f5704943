"""Number formats of sums."""

import torch


def wide(device: torch.device) -> torch.dtype:
    """The format of long sums on a device: float64, which Apple's devices lack."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32
