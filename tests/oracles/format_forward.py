"""Run by the oracles' Python: the forward pass of the library that a transcoder format belongs to.

Reads a folder and inputs (`x`: (layer, n, d_model)); writes activations (layer, n, d_transcoder) and reconstructions.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def circuit_tracer(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    return _each(
        x, lambda layer: load_relu_transcoder(str(folder / f"layer_{layer}.safetensors"), layer, dtype=torch.float32)
    )


def gemma_scope(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from circuit_tracer.transcoder.single_layer_transcoder import load_gemma_scope_transcoder

    def load(layer: int) -> torch.nn.Module:
        (path,) = folder.glob(f"layer_{layer}/*/*/params.npz")
        return load_gemma_scope_transcoder(str(path), layer)

    return _each(x, load)


def gemma_scope_2(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from circuit_tracer.transcoder.single_layer_transcoder import load_gemma_scope_2_transcoder

    def load(layer: int) -> torch.nn.Module:
        (path,) = folder.glob(f"transcoder_all/layer_{layer}_*/params.safetensors")
        return load_gemma_scope_2_transcoder(str(path), layer)

    return _each(x, load)


def clt(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt

    coder = load_clt(str(folder), dtype=torch.float32, lazy_decoder=False)
    a = coder.encode(x)
    return a, coder.decode(a)


def sae_lens(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from sae_lens import SAE

    coders = [SAE.load_from_disk(folder / f"blocks.{layer}") for layer in range(len(x))]
    a = [coder.encode(xs) for coder, xs in zip(coders, x, strict=True)]
    return torch.stack(a), torch.stack([coder(xs) for coder, xs in zip(coders, x, strict=True)])


def sparsify(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from sparsify import SparseCoder

    coders = [SparseCoder.load_from_disk(folder / f"layers.{layer}.mlp") for layer in range(len(x))]
    found = [coder(xs, torch.randn_like(xs)) for coder, xs in zip(coders, x, strict=True)]
    a = [
        torch.zeros(len(out.latent_acts), coder.num_latents).scatter(1, out.latent_indices, out.latent_acts)
        for coder, out in zip(coders, found, strict=True)
    ]
    return torch.stack(a), torch.stack([out.sae_out for out in found])


def _each(x: torch.Tensor, load) -> tuple[torch.Tensor, torch.Tensor]:
    coders = [load(layer) for layer in range(len(x))]
    a = [coder.encode(xs) for coder, xs in zip(coders, x, strict=True)]
    return torch.stack(a), torch.stack([coder(xs) for coder, xs in zip(coders, x, strict=True)])


@torch.no_grad()
def main(library: str, folder: str, inputs: str, output: str) -> None:
    a, y = globals()[library](Path(folder), load_file(inputs)["x"])
    save_file({"a": a.detach().contiguous(), "y": y.detach().contiguous()}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
