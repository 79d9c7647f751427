"""LTX-2's codecs, chunk by chunk.

The video decoder continues from its own state (`decoder.py`). The sound is decoded over a window of latents, and only
its final part is output.

The receptive field is computed through the networks, convolution by convolution. A window starts far enough before the
first new output to hold all latents that influence it, and the outputs near its edges, which depend on padding, are
discarded. The chunks together therefore equal one decode of all latents.

Shapes: b batch, f latent frames, l audio latents, c channels, m mel bands, n frames or samples, h w height and width.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import LTX2AudioResnetBlock
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from longtake.pipeline.adapters.ltx2.decoder import Tails, decode_more, reach
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.protocols import DecoderState

FRAMES, MELS = 8, 4
"""Video frames and mel frames of a latent; a section's first latent holds one of each."""
MOST_AT_ONCE = 16
"""Largest number of video latents per pass of the decoder; it bounds memory, and smaller passes are slow on a CPU."""
WINDOW = 1024
"""Samples of a window of the spectrogram from which sound is encoded."""
QUIETEST = 1e-5
"""The magnitude below which a spectrogram is flat."""
FAR = 10_000
"""Index of a latent that the start of its section does not influence."""


@dataclass(frozen=True)
class Tail:
    """The last latents of a section, as many as later outputs depend on.

    Args:
        latents: [b f ...].
        whole: whether these are all latents of the section so far.
    """

    latents: Tensor
    whole: bool


def _joined(latents: Tensor, state: DecoderState) -> Tail:
    if state is None:
        return Tail(latents, whole=True)
    return Tail(torch.cat((state.latents, latents), dim=1), state.whole)


def _kept(window: Tail, most: int) -> Tail:
    return Tail(window.latents[:, -most:], window.whole and window.latents.shape[1] <= most)


@dataclass(frozen=True)
class VideoTail:
    """The state of a section's video decoder.

    Args:
        places: the tails of its layers.
        latents: number of latents decoded so far.
        early: final frames [b 3 n h w] of a latent whose other frames are not final yet.
    """

    places: Tails | None
    latents: int
    early: Tensor


class LTX2VideoCodec:
    """Latents [b f c h w] of zero mean and unit variance -> RGB frames in -1..1 [b n 3 h*stride w*stride].

    Args:
        vae: with a causal decoder or not; without, frames are output once the latents that they depend on are known.
    """

    def __init__(self, vae: AutoencoderKLLTX2Video) -> None:
        if vae.config.timestep_conditioning or any(vae.config.decoder_inject_noise):
            raise WeightsError("the video decoder adds noise, so decodes are not reproducible; use one without noise")
        self.vae = vae
        past, self.lookahead = reach(vae.decoder)
        # The first passes of a resumed decoder are shorter, which may change the last bit of their outputs.
        self.left_context = past + self.lookahead + self.lookahead + MOST_AT_ONCE

    def encode(self, frames: Tensor) -> Tensor:
        """The modes of the latents [b 1+k c h w] of frames [b 1+8k 3 H W] in -1..1."""
        vae = self.vae
        mean, std = (rearrange(values, "c -> c 1 1 1") for values in (vae.latents_mean, vae.latents_std))
        latents: Tensor = vae.encode(rearrange(frames, "b n c h w -> b c n h w").to(mean)).latent_dist.mode()
        normal: Tensor = (latents - mean) * vae.config.scaling_factor / std
        return rearrange(normal, "b c f h w -> b f c h w")

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """Frames [b n 3 h w] that later latents cannot change: eight per latent, one for a section's first latent."""
        vae, (b, _, _, *size) = self.vae, latents.shape
        height, width = (int(vae.spatial_compression_ratio) * side for side in size)
        tail = state or VideoTail(None, 0, latents.new_zeros(b, 3, 0, height, width))
        mean, std = (rearrange(values, "c -> c 1 1 1") for values in (vae.latents_mean, vae.latents_std))
        x = rearrange(latents, "b f c h w -> b c f h w").to(mean) * std / vae.config.scaling_factor + mean
        parts = x.tensor_split(ceil(x.shape[2] / MOST_AT_ONCE), dim=2)
        frames, places = [tail.early], tail.places
        for part in parts:
            new, places = decode_more(vae.decoder, part, places, final and part is parts[-1])
            frames += [] if new is None else [new]
        known, stop = torch.cat(frames, dim=2), tail.latents + x.shape[2]
        ready = known.shape[2] if final else self._num_frames(stop) - self._num_frames(tail.latents)
        state = VideoTail(places, stop, known[:, :, ready:].clone())
        return rearrange(known[:, :, :ready], "b c n h w -> b n c h w"), state

    def _num_frames(self, latents: int) -> int:
        """Number of final frames once `latents` latents of a section are known."""
        return max(0, FRAMES * (latents - self.lookahead) - (FRAMES - 1))


class LTX2SoundCodec:
    """Latents [b l c*m] of zero mean and unit variance -> sound in -1..1 [c n].

    The autoencoder is causal; the vocoder looks ahead, so the sound of a chunk's last latents is output with the next
    chunk. A section's first latent holds one mel frame instead of four, so the last 30 ms of a section are silent.

    Args:
        vae: latents to mel frames.
        vocoder: mel frames to samples.
    """

    def __init__(self, vae: AutoencoderKLLTX2Audio, vocoder: LTX2Vocoder | LTX2VocoderWithBWE) -> None:
        config = vae.config
        if config.mid_block_add_attention or config.attn_resolutions or config.norm_type != "pixel":
            raise WeightsError("the sound decoder attends to the whole film and cannot decode chunks; use LTX-2's own")
        if config.causality_axis != "height":
            raise WeightsError(
                f"the sound decoder is causal along {config.causality_axis!r}; LTX-2's is along 'height'"
            )
        self.vae, self.vocoder = vae, vocoder
        self.stride = MELS * mel_samples(vocoder, config)
        self._around = vocoder_reach(vocoder, config)
        # Of n latents, MELS * n - 3 mel frames are known; all samples before frame MELS * (n - lookahead) are final.
        self.lookahead = ceil((self._around + MELS - 1) / MELS)
        first_new = MELS * (FAR - self.lookahead)
        self.left_context = FAR - audio_reach(vae, first_new - self._around)

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """Final samples [c n], and the latents that later samples depend on."""
        window = _joined(latents, state)
        before = 0 if state is None else state.latents.shape[1]
        done = max(0, before - self.lookahead) if window.whole else self.left_context - self.lookahead
        known = window.latents.shape[1]
        stop = known if final else max(done, known - self.lookahead)
        if stop == done:
            return latents.new_zeros(self.channels, 0), _kept(window, self.left_context)
        samples = self._samples(window.latents, done)[:, : (stop - done) * self.stride]
        missing = (stop - done) * self.stride - samples.shape[1]
        return functional.pad(samples, (0, missing)), _kept(window, self.left_context)

    @property
    def channels(self) -> int:
        """Channels of the sound."""
        return int(self.vocoder.config.out_channels)

    def encode(self, sound: Tensor) -> Tensor:
        """The modes of the latents [1 l c*m] of sound in -1..1 [c n], n a multiple of the stride.

        Log-mel spectrograms as in LTX-2's `AudioProcessor`.
        """
        config, mean, std = self.vae.config, self.vae.latents_mean, self.vae.latents_std
        count = sound.shape[1] // self.stride
        heard = resample(sound.to(mean), int(self.vocoder.config.output_sampling_rate), config.sample_rate)
        heard = heard[[min(one, len(heard) - 1) for one in range(config.in_channels)]]
        to_mels = MelSpectrogram(
            config.sample_rate,
            n_fft=WINDOW,
            hop_length=config.mel_hop_length,
            n_mels=config.mel_bins,
            power=1.0,
            norm="slaney",
            mel_scale="slaney",
        ).to(mean)
        mels = to_mels(heard).clamp(min=QUIETEST).log()[..., : MELS * count - (MELS - 1)]
        latents: Tensor = self.vae.encode(rearrange(mels, "c m l -> 1 c l m")).latent_dist.mode()
        found: Tensor = (rearrange(latents, "b c l m -> b l (c m)") - mean) / std
        return found

    def _samples(self, latents: Tensor, done: int) -> Tensor:
        """Samples [c n] of latents [1 l c*m] from latent `done` of the window to its end."""
        mean, std = self.vae.latents_mean, self.vae.latents_std
        x = rearrange(latents.to(mean) * std + mean, "b l (c m) -> b c l m", c=self.vae.config.latent_channels)
        mels = self.vae.decoder(x)
        first = max(0, MELS * done - self._aligned)
        sound: Tensor = self.vocoder(mels[:, :, first:])[0]
        return sound[:, (MELS * done - first) * self.stride // MELS :]

    @property
    def _aligned(self) -> int:
        """Mel frames of context passed to the vocoder before the first new one; a multiple of its resampling factor."""
        return MELS * ceil(self._around / MELS)


def mel_samples(vocoder: LTX2Vocoder | LTX2VocoderWithBWE, config: Any) -> int:
    """Samples per mel frame at the vocoder's rate."""
    return int(vocoder.config.output_sampling_rate) * int(config.mel_hop_length) // int(config.sample_rate)


def audio_reach(vae: AutoencoderKLLTX2Audio, mel: int) -> int:
    """The earliest latent that influences mel frame `mel`.

    Computed backwards, convolution by convolution; each reaches two frames into the past.
    """
    decoder, earliest = vae.decoder, mel - 2
    for level in range(decoder.num_resolutions):  # the last one that runs is level 0
        stage: Any = decoder.up[level]
        if level:  # doubled, convolved, and the first frame dropped
            earliest = (earliest + 1 - 2) // 2
        earliest -= 4 * len(stage.block)
    blocks = [block for block in decoder.mid.modules() if isinstance(block, LTX2AudioResnetBlock)]
    return int(earliest) - 4 * len(blocks) - 2


def vocoder_reach(vocoder: LTX2Vocoder | LTX2VocoderWithBWE, config: Any) -> int:
    """Largest distance in mel frames, before and after, at which a frame influences another one's samples."""
    if isinstance(vocoder, LTX2VocoderWithBWE):
        bands = vocoder.config
        widened = (_reach(vocoder.bwe_generator) * bands.hop_length + bands.window_length + vocoder.resampler.pad) + 1
        per_mel = int(bands.input_sampling_rate * config.mel_hop_length // config.sample_rate)
        return _reach(vocoder.vocoder) + ceil(int(widened) / per_mel)
    return _reach(vocoder)


def _reach(vocoder: LTX2Vocoder) -> int:
    """The same for one generator, in its own frames; computed backwards from a sample."""
    config, reach = vocoder.config, int(vocoder.conv_out.kernel_size[0]) // 2
    # An anti-aliased activation upsamples and downsamples; each of the two filters adds half of this reach.
    smoothed = config.act_fn.startswith("snake") or config.antialias
    smooth = config.antialias_kernel_size // config.antialias_ratio + 1 if smoothed else 0
    reach += smooth
    sizes = zip(config.upsample_factors, config.upsample_kernel_sizes, strict=True)
    for factor, kernel in reversed(list(sizes)):
        # Per dilation: a dilated convolution and a plain one, each behind an activation.
        reach += max(
            sum((size // 2) * (dilation + 1) + 2 * smooth for dilation in dilations)
            for size, dilations in zip(config.resnet_kernel_sizes, config.resnet_dilations, strict=True)
        )
        reach = ceil((reach + kernel - 1) / factor)
    return reach + int(vocoder.conv_in.kernel_size[0]) // 2
