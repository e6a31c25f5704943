"""Attributes of a checkpoint of random weights, at any shape."""

from storage.checkpoints import CheckpointAttributes


def random_attributes(
    checkpoint_id: str, *, n_layers: int, d_model: int, d_transcoder: int, n_tokens: int
) -> CheckpointAttributes:
    """Like those of a GPT-2 with ReLU transcoders at its MLPs."""
    return CheckpointAttributes(
        checkpoint_id=checkpoint_id,
        name=checkpoint_id,
        model_name="random",
        model_revision=None,
        transcoder_name="random",
        transcoder_revision=None,
        transcoder_format="random",
        folded=(),
        step=None,
        family="gpt2",
        activation="relu",
        k=None,
        n_layers=n_layers,
        d_model=d_model,
        d_transcoder=d_transcoder,
        d_vocab=n_tokens,
        n_tokens=n_tokens,
        bos=0,
        norms_centred=True,
        feature_input_hook="mlp_in",
        feature_output_hook="mlp_out",
        weights_sha256="",
    )
