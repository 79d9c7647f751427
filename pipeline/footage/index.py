"""The index of a piece of footage: one pass over its packets, and one decoded picture for what only pictures hold."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from itertools import islice
from struct import unpack_from
from typing import Any

from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.alpha import alpha_decoder
from longtake.pipeline.footage.colour import check_matrix, layout_of
from longtake.pipeline.footage.deinterlace import AUTO, OFF, deinterlacing
from longtake.pipeline.footage.pulldown import without_pulldown
from longtake.pipeline.footage.values import Chapter, Colour, Footage, LightLevel, MasteringDisplay, OtherStream
from longtake.pipeline.media.ffmpeg import FULL, side_data
from longtake.pipeline.media.matroska import UNCROPPED, Crop, crop_of
from longtake.pipeline.media.source import codec_name, opened, picture_stream
from longtake.pipeline.media.timeline import Timeline
from longtake.pipeline.media.times import STOP, Times, intact, picture_times

_NAMED_LOSSES = 100
_LOOKED_AT = 8  # pictures at the start that tell whether a film is interlaced
_NOT_CARRIED = {
    SideDataType.DOVI_METADATA: "Dolby Vision's metadata",
    SideDataType.DYNAMIC_HDR_PLUS: "HDR10+'s dynamic metadata",
    SideDataType.A53_CC: "the caption track inside the picture (CTA-708)",
    SideDataType.ICC_PROFILE: "the ICC profile",
    SideDataType.SPHERICAL: "the tag for spherical video",
    SideDataType.STEREO3D: "the tag for stereo video",
}


def open_footage(url: str, damaged: str = STOP, deinterlace: str = OFF) -> Footage:
    """Index the footage at `url`: every picture's time, without decoding more than one if its packets suffice.

    Args:
        damaged: what happens to pictures that do not decode: "stop", "skip" or "hold".
        deinterlace: whether interlaced footage is deinterlaced: "auto" or "off".

    Raises:
        MediaError: it is no film, or holds no picture; or it is cut off or damaged, and `damaged` is "stop".
    """
    try:
        times = picture_times(url, damaged)
    except FileNotFoundError as error:
        raise MediaError(f"{url}: {error.strerror or 'No such file'}; name a film that is there") from error
    with opened(url, times.size) as container:
        stream = picture_stream(container, url)
        others = tuple(_other(other) for other in container.streams if other.index != stream.index)
        declared = _colour(stream.codec_context)
        pictures = list(islice(_first_pictures(container, stream, times, url, damaged), _LOOKED_AT))
        if not pictures:
            raise MediaError(f"{url} holds no picture that decodes; it is damaged, or its codec is unknown here")
        interlaced = any(picture.interlaced_frame for picture in pictures)
        footage = _footage(url, container, stream, times, pictures[0])
        notes = (*_not_carried(pictures, times), *footage.notes)
        footage = replace(footage, others=others, damaged=damaged, interlaced=interlaced, notes=notes)
        footage = _cropped(_tagged(footage, declared), crop_of(url, footage.container, stream.index))
    film = without_pulldown(footage) if deinterlace == AUTO else footage
    return deinterlacing(film, deinterlace)


def _cropped(footage: Footage, crop: Crop) -> Footage:
    """The footage without the edges that its container does not show."""
    width, height = footage.width - crop.width, footage.height - crop.height
    if crop == UNCROPPED or min(width, height) < 1:
        return footage
    fingerprint = sha256(f"{footage.fingerprint} {crop}".encode()).hexdigest()
    return replace(footage, width=width, height=height, crop=crop, fingerprint=fingerprint)


def _colour(tagged: VideoFrame | VideoCodecContext) -> Colour:
    return Colour(tagged.color_primaries, tagged.color_trc, tagged.colorspace, tagged.color_range)


def _tagged(footage: Footage, declared: Colour) -> Footage:
    """The footage with the colour tags of its container where its pictures have none; grey is full range then."""
    own, untagged, layout = footage.colour, Colour(), layout_of(footage.pix_fmt)
    colour = Colour(
        *(
            getattr(declared if getattr(own, name) == getattr(untagged, name) else own, name)
            for name in ("primaries", "transfer", "matrix", "range")
        )
    )
    if layout.chroma == "gray" and colour.range == untagged.range:
        colour = replace(colour, range=int(FULL))
    if colour == own:
        return footage
    check_matrix(colour, layout)
    fingerprint = sha256(f"{footage.fingerprint} {colour}".encode()).hexdigest()
    return replace(footage, colour=colour, fingerprint=fingerprint)


def _first_pictures(
    container: InputContainer, stream: VideoStream, times: Times, url: str, damaged: str
) -> Iterator[VideoFrame]:
    """The pictures from the first one on."""
    stream.codec_context.thread_count = 1
    decoder = alpha_decoder(stream)
    first, has_begun = times.pts[times.shows[0] if times.shows else 0], times.in_order
    for packet in Timeline(container).packets([stream]):
        for frame in intact(packet, url, tolerant=damaged != STOP or has_begun, decoder=decoder):
            has_begun |= frame.pts == first
            if has_begun:
                yield frame
            elif damaged == STOP:
                raise MediaError(
                    f"{url} begins with pictures that need earlier ones to decode; cut it at a key frame, or add"
                    " --damaged skip"
                )


def _footage(url: str, container: InputContainer, stream: VideoStream, times: Times, picture: VideoFrame) -> Footage:
    colour = _colour(picture)
    layout = layout_of(picture.format.name)
    check_matrix(colour, layout)
    matrix = side_data(picture, SideDataType.DISPLAYMATRIX)
    return Footage(
        url=url,
        fingerprint=times.digest,
        container=container.format.name,
        stream_index=stream.index,
        codec=stream.codec_context.codec.canonical_name,
        width=picture.width,
        height=picture.height,
        pix_fmt=picture.format.name,
        bit_depth=layout.depth,
        colour=colour,
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=picture.rotation,
        display_matrix=None if matrix is None else unpack_from("=9i", matrix),
        interlaced=picture.interlaced_frame,
        time_base=stream.time_base or Fraction(1),
        pts=times.pts,
        durations=times.durations,
        keyframes=times.keyframes,
        mastering=_mastering(side_data(picture, SideDataType.MASTERING_DISPLAY_METADATA)),
        light_level=_light_level(side_data(picture, SideDataType.CONTENT_LIGHT_LEVEL)),
        chapters=tuple(_chapter(chapter) for chapter in container.chapters()),
        metadata=dict(container.metadata),
        stream_metadata=dict(stream.metadata),
        disposition=int(stream.disposition),
        frame_rate=_steady_rate(stream, times),
        nominal_rate=stream.guessed_rate,
        notes=tuple(str(change) for change in times.changes if not change.is_size) + _losses(times),
        size_change=next((str(change) for change in times.changes if change.is_size), ""),
        start_s=times.start_s,
        size=times.size,
        in_order=times.in_order,
        restarts=times.restarts,
        lost_s=times.lost_s,
        shows=times.shows,
    )


def _not_carried(pictures: Sequence[VideoFrame], times: Times) -> tuple[str, ...]:
    """What the first pictures hold next to their samples, captions of any picture too, and the new film will not."""
    return tuple(
        f"{name} is not carried over"
        for kind, name in _NOT_CARRIED.items()
        if (kind == SideDataType.A53_CC and times.has_captions)
        or any(side_data(picture, kind) is not None for picture in pictures)
    )


def _losses(times: Times) -> tuple[str, ...]:
    """A line for every picture that does not decode."""
    fate = "the one before is shown in its place" if times.shows else "it is left out"
    lines = [f"the picture at {float(lost_s):.3f} s does not decode: {fate}" for lost_s in times.lost_s]
    if len(lines) > _NAMED_LOSSES:
        more = len(lines) - _NAMED_LOSSES
        lines[_NAMED_LOSSES:] = [f"{more} more pictures, up to {float(times.lost_s[-1]):.3f} s, do not decode either"]
    return tuple(lines)


def _mastering(data: bytes | None) -> MasteringDisplay | None:
    """FFmpeg's AVMasteringDisplayMetadata: eight fractions for colours, two for brightness, two flags."""
    if data is None:
        return None
    numbers = unpack_from("=22i", data)
    values = [Fraction(numbers[at], numbers[at + 1] or 1) for at in range(0, 20, 2)]
    has_colours, has_luminance = numbers[20:]
    return MasteringDisplay(
        primaries=tuple((values[at], values[at + 1]) for at in (0, 2, 4)) if has_colours else None,
        white_point=(values[6], values[7]) if has_colours else None,
        luminance=(values[8], values[9]) if has_luminance else None,
    )


def _light_level(data: bytes | None) -> LightLevel | None:
    return None if data is None else LightLevel(*unpack_from("=2I", data))


def _chapter(chapter: Any) -> Chapter:
    return Chapter(chapter["start"], chapter["end"], chapter["time_base"] or Fraction(1), dict(chapter["metadata"]))


def _other(stream: Stream) -> OtherStream:
    is_data = stream.type == "data"
    return OtherStream(
        index=stream.index,
        kind=stream.type,
        codec=codec_name(stream),
        language=stream.language or "",
        title=stream.metadata.get("title", stream.metadata.get("filename", "")),
        time_base=stream.time_base or None,
        is_chapters=is_data and stream.discard == Discard.all,
        is_timecode=is_data and stream.discard != Discard.all and "timecode" in stream.metadata,
    )


def _steady_rate(stream: VideoStream, times: Times) -> Fraction | None:
    """The rate that every picture keeps, exactly or, in coarse ticks, to within one; None if there is no such rate."""
    tick_s = stream.time_base or Fraction(1)
    if len(set(times.durations)) == 1:
        return 1 / (times.durations[0] * tick_s)
    for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate):
        if rate and all(abs(ticks - 1 / (rate * tick_s)) <= 1 for ticks in times.durations):
            return rate
    return None
