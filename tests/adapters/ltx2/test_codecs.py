"""Chunked decoding equals one decode of all latents to the last digits, for picture and sound."""

from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

from longtake.jobs.bench.ltx2_parity import pictures_at_once, sound_at_once
from longtake.pipeline.adapters.ltx2.codecs import MOST_AT_ONCE, LTX2SoundCodec, LTX2VideoCodec, vocoder_reach
from longtake.pipeline.adapters.ltx2.decoder import reach
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.testing.ltx2 import (
    AUDIO_CHANNELS,
    AUDIO_MEL,
    LATENT_CHANNELS,
    tiny_audio_vae,
    tiny_video_vae,
    tiny_vocoder,
    tiny_wide_vocoder,
)

LATENTS, AUDIO = 64, 130


def decode(codec, latents, borders):
    """Decode the chunks between `borders` and concatenate them along `dim`."""
    parts, state = [], None
    for start, stop in pairwise(borders):
        part, state = codec.decode(latents[:, start:stop], state, final=stop == borders[-1])
        parts.append(part)
    return parts


@pytest.fixture(scope="module", params=[tiny_vocoder, tiny_wide_vocoder], ids=["2.0", "bandwidth extended"])
def sound(request):
    codec = LTX2SoundCodec(tiny_audio_vae().double(), request.param().double())
    torch.manual_seed(1)
    return codec, torch.randn(1, AUDIO, AUDIO_CHANNELS * AUDIO_MEL, dtype=torch.float64)


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "seeing ahead"])
def video(request):
    codec = LTX2VideoCodec(tiny_video_vae(request.param).double())
    torch.manual_seed(2)
    return codec, torch.randn(1, LATENTS, LATENT_CHANNELS, 1, 2, dtype=torch.float64)


@pytest.fixture(scope="module")
@torch.inference_mode()
def whole_video(video):
    return pictures_at_once(*video)


@pytest.fixture(scope="module")
@torch.inference_mode()
def whole_sound(sound):
    return sound_at_once(*sound)


@pytest.mark.parametrize("borders", [(0, 1, 2, 5, 30, 64), (0, 16, 29, 42, 55, 64)])
@torch.inference_mode()
def test_frames_of_chunks_equal_those_of_the_whole(video, whole_video, borders):
    codec, latents = video
    parts = decode(codec, latents, borders)
    done = [8 * max(0, stop - codec.lookahead) for stop in borders[:-1]] + [8 * LATENTS]
    assert [part.shape[1] for part in parts] == [max(0, b - 7) - max(0, a - 7) for a, b in pairwise(done)]
    assert float((torch.cat(parts, dim=1) - whole_video).abs().max()) <= 1e-10


@pytest.mark.parametrize("borders", [(0, 1, 2, 8, 60, 110, 130), (0, 50, 75, 100, 125, 130), (0, 129, 130)])
@torch.inference_mode()
def test_samples_of_chunks_equal_those_of_the_whole(sound, whole_sound, borders):
    (codec, latents), whole = sound, whole_sound
    parts = decode(codec, latents, borders)
    done = [max(0, stop - codec.lookahead) for stop in (0, *borders[1:-1])] + [AUDIO]
    assert [part.shape[1] for part in parts] == [codec.stride * (b - a) for a, b in pairwise(done)]
    ours = torch.cat(parts, dim=1)
    assert float((ours[:, : whole.shape[1]] - whole).abs().max()) <= 1e-10
    assert ours.shape[1] - whole.shape[1] == 3 * codec.stride // 4
    assert not ours[:, whole.shape[1] :].any()


@torch.inference_mode()
def test_a_decoder_started_with_its_declared_context_continues_bit_for_bit(sound, video):
    for (codec, latents), dim in ((sound, 1), (video, 1)):
        start = latents.shape[1] - 20
        begin = start - codec.left_context
        assert begin > 0
        whole = decode(codec, latents, (0, begin, start, start + 10, start + 20))
        resumed = decode(codec, latents[:, begin:], (0, start - begin, start + 10 - begin, start + 20 - begin))
        assert torch.equal(torch.cat(whole[2:], dim=dim), torch.cat(resumed[1:], dim=dim))


@torch.inference_mode()
def test_the_declared_context_is_hardly_larger_than_needed(sound, video):
    for (codec, latents), slack in ((sound, 4), (video, video[0].lookahead + MOST_AT_ONCE)):
        start = latents.shape[1] - 20
        changed = latents.clone()
        changed[:, start - codec.left_context + slack] += 1000
        after = [decode(codec, x, (0, start, latents.shape[1]))[1] for x in (latents, changed)]
        assert not torch.equal(*after)


def test_the_context_of_the_published_networks_is_as_measured():
    with torch.device("meta"):
        vocoder, wide, audio = LTX2Vocoder(), LTX2VocoderWithBWE(), AutoencoderKLLTX2Audio()
        codec = LTX2SoundCodec(audio, vocoder)
        assert vocoder_reach(vocoder, audio.config) == 20  # measured: beyond 16 nothing changes in float32
        assert LTX2SoundCodec(audio, wide).lookahead == 17
        assert (codec.stride, codec.lookahead) == (960, 6)
        assert codec.left_context - codec.lookahead >= 34
        assert reach(AutoencoderKLLTX2Video().decoder) == (44, 0)
        assert reach(AutoencoderKLLTX2Video(decoder_causal=False).decoder) == (22, 22)


def test_a_decoder_with_noise_or_global_attention_is_refused():
    with torch.device("meta"):
        with pytest.raises(WeightsError, match="adds noise"):
            LTX2VideoCodec(AutoencoderKLLTX2Video(decoder_inject_noise=(True, False, False, False)))
        with pytest.raises(WeightsError, match="attends to the whole film"):
            LTX2SoundCodec(AutoencoderKLLTX2Audio(mid_block_add_attention=True), LTX2Vocoder())
