"""Small clips on disk, for tests of training on clips."""

from contextlib import closing
from fractions import Fraction

from longtake.pipeline.media.aac import AacEncoder
from longtake.pipeline.media.mp4 import FilmFile, Sample, video_track
from longtake.pipeline.media.write import GopEncoder
from longtake.pipeline.values import SoundChunk

GOP = 6


def write_clip(path, frames, fps, pcm=None, sample_rate=16_000):
    """Write an MP4 of `frames`, uint8 [f h w 3], in several GOPs, with sound `pcm` [c n] unless it is None."""
    fps, encoder = Fraction(fps), GopEncoder(Fraction(fps), quality=4)
    packets = []
    for gop, start in enumerate(range(0, len(frames), GOP)):
        video_format, encoded = encoder.encode(frames[start : start + GOP], start, gop)
        packets += encoded
    ticks = fps.denominator
    pictures = [Sample(packet.frame * ticks, ticks, packet.keyframe, packet.data) for packet in packets]
    with video_track(video_format, packets[0].data, fps) as video:
        if pcm is None:
            _write(path, [video], [pictures])
            return
        with closing(AacEncoder(sample_rate, len(pcm))) as aac:
            sound = [*aac.encode(SoundChunk(0, sample_rate, pcm)), *aac.flush()]
            _write(path, [video, aac.track], [pictures, sound])


def _write(path, tracks, samples):
    film = FilmFile(path, tracks, {})
    for track, all_of_it in enumerate(samples):
        film.write(track, all_of_it)
    film.close()
