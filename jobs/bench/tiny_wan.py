"""A small random Wan of diffusers."""

from diffusers import WanTransformer3DModel


def tiny_wan(
    heads: int, head_dim: int = 12, layers: int = 2, channels: int = 4, patch: int = 1
) -> WanTransformer3DModel:
    """The transformer; `torch.manual_seed` decides its weights."""
    return WanTransformer3DModel(
        patch_size=(1, patch, patch),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=32,
        ffn_dim=2 * heads * head_dim,
        num_layers=layers,
        rope_max_seq_len=64,
    ).eval()
