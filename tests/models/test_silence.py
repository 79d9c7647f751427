"""Models without sound give the exact number of silent samples."""

import torch

from longtake.pipeline.models.silence import Silence


def test_every_latent_without_channels_is_a_hop_of_silence():
    sound, state = Silence(hop=8).decode(torch.zeros(1, 5, 0), None, final=False)
    assert torch.equal(sound, torch.zeros(1, 40))
    assert state is None
