"""A transcoder as a PyTorch module, for use in one's own code."""

from jaxtyping import Float
from torch import Tensor, nn

from interp.transcoder import ActivationName, Transcoder

ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip", "W_dec_later")


class TranscoderModule(nn.Module):
    """`y = W_decᵀ act(W_enc x + b_enc) + b_dec (+ W_skip x)`; both weights have a row for each feature.

    The arrays are buffers: `.to(…)`, `.half()` and `state_dict()` include them, and they have no gradients. For a
    cross-layer transcoder, `forward` gives what is written to its own layer; `W_dec_later` has the rest.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None
    W_skip: Tensor | None
    W_dec_later: Tensor | None

    def __init__(self, transcoder: Transcoder) -> None:
        super().__init__()
        self.activation: ActivationName = transcoder.activation
        self.k = transcoder.k
        for name in ARRAYS:
            self.register_buffer(name, getattr(transcoder, name))

    @property
    def transcoder(self) -> Transcoder:
        """This module's weights as a `Transcoder`."""
        return Transcoder(**{name: getattr(self, name) for name in ARRAYS}, activation=self.activation, k=self.k)

    def encode(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_transcoder"]:
        """The activations of every feature at every token."""
        return self.transcoder.encode(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    def decode(
        self, a: Float[Tensor, "*n d_transcoder"], x: Float[Tensor, "*n d_model"]
    ) -> Float[Tensor, "*n d_model"]:
        """The reconstruction from activations; a skip connection needs `x`, from which they were computed."""
        y = self.transcoder.decode(a.reshape(-1, a.shape[-1]), x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape)

    def forward(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The reconstruction of the MLP's output."""
        return self.decode(self.encode(x), x)

    def extra_repr(self) -> str:
        """Sizes and activation function."""
        kind = self.activation if self.k is None else f"{self.activation}, k={self.k}"
        return f"d_model={self.W_enc.shape[1]}, d_transcoder={self.W_enc.shape[0]}, {kind}"
