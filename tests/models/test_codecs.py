from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st

from longtake.pipeline.models.sound_codec import SoundCodec, SoundCodecConfig, windowed_mdct
from longtake.pipeline.models.video_codec import TEMPORAL_STRIDE, VideoCodec, VideoCodecConfig

NUM_LATENTS = 12
cuts = st.lists(st.integers(0, NUM_LATENTS), max_size=6).map(lambda inner: [0, *sorted(inner), NUM_LATENTS])


@pytest.fixture(scope="module")
def video_codec():
    torch.manual_seed(0)
    return VideoCodec(VideoCodecConfig(latent_channels=3, fine_width=8, coarse_width=8)).double().eval()


@pytest.fixture(scope="module")
def sound_codec():
    torch.manual_seed(0)
    codec = SoundCodec(SoundCodecConfig(hop=40, latent_channels=7)).double()
    torch.nn.init.normal_(codec.basis)
    return codec


def decode_in_chunks(codec, latents, borders):
    state, pieces = None, []
    for number, (start, stop) in enumerate(pairwise(borders), start=2):
        piece, state = codec.decode(latents[:, start:stop], state, number == len(borders))
        pieces.append(piece)
    return torch.cat(pieces, dim=1)


@settings(max_examples=20, deadline=None)
@given(cuts)
@torch.inference_mode()
def test_chunked_video_decode_equals_the_whole_decode(video_codec, borders):
    latents = torch.randn(2, NUM_LATENTS, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    borders = sorted(set(borders))
    whole, _ = video_codec.decode(latents, None)
    assert whole.shape == (2, NUM_LATENTS * TEMPORAL_STRIDE, 3, 32, 16)
    torch.testing.assert_close(decode_in_chunks(video_codec, latents, borders), whole, rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(cuts)
@torch.inference_mode()
def test_chunked_sound_decode_equals_the_whole_decode(sound_codec, borders):
    latents = torch.randn(2, NUM_LATENTS, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, _ = sound_codec.decode(latents, None, final=True)
    assert whole.shape == (2, NUM_LATENTS * 40)
    torch.testing.assert_close(decode_in_chunks(sound_codec, latents, borders), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("codec_name", ["video_codec", "sound_codec"])
@torch.inference_mode()
def test_no_latent_has_influence_beyond_the_declared_context(codec_name, request):
    codec = request.getfixturevalue(codec_name)
    shape = (1, NUM_LATENTS, 3, 4, 2) if codec_name == "video_codec" else (1, NUM_LATENTS, 7)
    latents = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = latents.clone()
    changed[:, 5] += 1
    whole, other = (codec.decode(x, None, final=True)[0] for x in (latents, changed))
    per_latent = whole.shape[1] // NUM_LATENTS
    moved = [
        latent + codec.lookahead
        for latent in range(NUM_LATENTS)
        if not torch.equal(*(x[:, latent * per_latent : (latent + 1) * per_latent] for x in (whole, other)))
    ]
    assert moved == list(range(5, 5 + codec.left_context + 1))


@torch.inference_mode()
def test_the_mdct_cancels_its_own_aliasing():
    codec = SoundCodec(SoundCodecConfig(hop=40, latent_channels=40)).double()
    codec.mdct = windowed_mdct(40).double()
    sound = torch.randn(2, 40 * 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    decoded, _ = codec.decode(codec.encode(sound), None, final=True)
    torch.testing.assert_close(decoded[:, :-40], sound[:, :-40], rtol=0, atol=1e-6)
    frame = windowed_mdct(40).double()
    torch.testing.assert_close(frame.T @ frame, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_video_encode_gives_a_latent_for_every_four_frames(video_codec):
    frames = torch.rand(1, 8, 3, 16, 24, dtype=torch.float64) * 2 - 1
    latents = video_codec.encode(frames)
    assert latents.shape == (1, 2, 3, 2, 3)
    torch.testing.assert_close(video_codec.encode(frames[:, 4:]), latents[:, 1:], rtol=0, atol=1e-12)


@torch.inference_mode()
def test_the_channels_of_stereo_sound_share_each_latent():
    codec = SoundCodec(SoundCodecConfig(hop=40, latent_channels=80, channels=2)).double()
    codec.mdct = windowed_mdct(40).double()
    sound = torch.randn(2, 40 * 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    latents = codec.encode(sound)
    assert latents.shape == (1, 10, 80)
    decoded = decode_in_chunks(codec, latents, [0, 3, 10])
    torch.testing.assert_close(decoded[:, :-40], sound[:, :-40], rtol=0, atol=1e-6)
