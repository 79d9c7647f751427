"""The description of a piece of footage, known before it is decoded: pure data, equal on every machine."""

from dataclasses import dataclass, field
from fractions import Fraction

from longtake.pipeline.media.matroska import UNCROPPED, Crop

# Tags that describe how the old file was written. The new file's writer sets its own.
_OLD_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id"}
_STATISTICS = ("bps", "number_of_", "_statistics_")


@dataclass(frozen=True)
class Colour:
    """FFmpeg's numbers (those of ITU-T H.273), as the source is tagged. Untagged: 2, and for the range 0."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0


@dataclass(frozen=True)
class MasteringDisplay:
    """SMPTE ST 2086: the display on which the film was graded, in CIE 1931 xy and cd/m2.

    Args:
        primaries: red, green and blue, each x and y; None if unknown.
        white_point: x and y; None if unknown.
        luminance: darkest and brightest; None if unknown.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] | None
    white_point: tuple[Fraction, Fraction] | None
    luminance: tuple[Fraction, Fraction] | None


@dataclass(frozen=True)
class LightLevel:
    """CTA-861.3: the brightest pixel and the brightest mean of a frame, in cd/m2."""

    max_content: int
    max_frame_average: int


@dataclass(frozen=True)
class Chapter:
    """A named part of the film; `start` and `stop` count its own time base."""

    start: int
    stop: int
    time_base: Fraction
    metadata: dict[str, str]

    @property
    def title(self) -> str:
        """Its name, empty if it has none."""
        return self.metadata.get("title", "")


@dataclass(frozen=True)
class OtherStream:
    """A stream that is not the picture: sound, subtitles, data, an attachment, a cover, a second picture.

    Args:
        index: its number in the container.
        kind: "audio", "subtitle", "data", "attachment" or "video".
        codec: FFmpeg's name, or the container's four-letter code if FFmpeg has none.
        language: ISO 639-2; empty if unknown.
        title: as tagged, or an attachment's file name.
        time_base: seconds per tick; None for a stream without times.
        is_chapters: whether it is QuickTime's chapter track, which is written with the chapters.
        is_timecode: whether it is the track of the picture's `timecode`, which is written with that tag.
    """

    index: int
    kind: str
    codec: str
    language: str = ""
    title: str = ""
    time_base: Fraction | None = None
    is_chapters: bool = False
    is_timecode: bool = False

    @property
    def is_written_with_picture(self) -> bool:
        """Whether a writer creates it from the tags of the picture and the container."""
        return self.is_chapters or self.is_timecode

    def __str__(self) -> str:
        named = "".join(f", {word}" for word in (self.language, self.title) if word)
        return f"{self.kind} stream {self.index} ({self.codec}{named})"


@dataclass(frozen=True)
class Pulldown:
    """How a film was recorded in more pictures than it has.

    Args:
        order: which field of a picture comes first: "tff" for the one at the top, or "bff".
        pts: the times of the recorded pictures in ticks.
    """

    order: str
    pts: tuple[int, ...]


@dataclass(frozen=True)
class Footage:
    """A piece of footage, as read by one pass over its packets.

    Args:
        url: its location, for fsspec.
        fingerprint: sha256 in hex over the picture's packets and their times, and the file's size, head and tail.
        container: FFmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2".
        stream_index: the picture's number among the container's streams.
        codec: FFmpeg's name of the picture's codec.
        width, height: of every picture as it is coded, not rotated.
        pix_fmt: FFmpeg's name of the pixel format.
        bit_depth: bits of a sample of brightness.
        colour: as tagged.
        sample_aspect_ratio: a pixel's width by its height; None if unknown.
        rotation: degrees, counter-clockwise, by which players turn the picture.
        display_matrix: the nine numbers behind `rotation`, which may mirror too; None if there is none.
        interlaced: whether one of the first pictures is woven of two fields.
        time_base: seconds per tick.
        pts: the time of each picture in ticks, in display order.
        durations: ticks from each picture to the next.
        keyframes: numbers of the pictures, in display order, at which decoding can begin.
        mastering, light_level: HDR10's static metadata.
        others: every other stream, in the container's order.
        metadata, stream_metadata: tags of the container, and of the picture's stream.
        disposition: FFmpeg's flags of the picture's stream, such as that it is the default one.
        frame_rate: the constant rate of all pictures; None if it varies.
        nominal_rate: the rate that FFmpeg takes most pictures to have; None if it cannot tell.
        notes: what of the file cannot be carried over, in words.
        start_s: the common start of picture and sound on the file's clock, which a player shows at 0.
        size: bytes of the file when it was indexed; what is appended later is not read.
        in_order: whether pictures are identified by their order from the file's start, not by their times.
        restarts: whether the file's clock restarts, as that of joined transport streams does.
        damaged: what happens to pictures that do not decode: "stop", "skip" or "hold".
        lost_s: the times of those pictures.
        shows: for each picture the number of the one that is decoded for it; empty if that is itself.
        crop: edges of a decoded picture that are not shown; `width` and `height` are without them.
        size_change: a sentence if the size of the pictures changes midway; empty otherwise.
        deinterlaced: whether pictures are read without the combs of their two fields.
        pulldown: of telecined film; `keyframes` and `shows` are numbers of the recorded pictures then.
    """

    url: str
    fingerprint: str
    container: str
    stream_index: int
    codec: str
    width: int
    height: int
    pix_fmt: str
    bit_depth: int
    colour: Colour
    sample_aspect_ratio: Fraction | None
    rotation: int
    display_matrix: tuple[int, ...] | None
    interlaced: bool
    time_base: Fraction
    pts: tuple[int, ...]
    durations: tuple[int, ...]
    keyframes: tuple[int, ...]
    mastering: MasteringDisplay | None = None
    light_level: LightLevel | None = None
    others: tuple[OtherStream, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    stream_metadata: dict[str, str] = field(default_factory=dict)
    disposition: int = 0
    frame_rate: Fraction | None = None
    nominal_rate: Fraction | None = None
    notes: tuple[str, ...] = ()
    start_s: Fraction = Fraction(0)
    size: int | None = None
    in_order: bool = False
    restarts: bool = False
    damaged: str = "stop"
    lost_s: tuple[Fraction, ...] = ()
    shows: tuple[int, ...] = ()
    crop: Crop = UNCROPPED
    size_change: str = ""
    deinterlaced: bool = False
    pulldown: Pulldown | None = None

    @property
    def num_frames(self) -> int:
        """How many pictures there are."""
        return len(self.pts)

    @property
    def coded_pts(self) -> tuple[int, ...]:
        """The time of each picture that the file holds, in ticks."""
        return self.pts if self.pulldown is None else self.pulldown.pts

    def coded_number(self, number: int) -> int:
        """The number of the picture that is decoded for picture `number`."""
        return self.shows[number] if self.shows else number

    @property
    def seconds(self) -> Fraction:
        """From the start of the first picture to the end of the last one."""
        return (self.pts[-1] + self.durations[-1] - self.pts[0]) * self.time_base

    @property
    def rate(self) -> Fraction:
        """Pictures per second, on average."""
        return self.num_frames / self.seconds

    @property
    def timecode_rate(self) -> Fraction:
        """At which a timecode counts, however uneven the pictures are; of telecined film that of the recording."""
        own = None if self.pulldown else self.frame_rate
        return own or self.nominal_rate or self.encoded_rate

    @property
    def encoded_rate(self) -> Fraction:
        """The rate that an encoder is told: the constant one, or the average as a short fraction."""
        return self.frame_rate or self.rate.limit_denominator(1001)


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags that are still true of the new file."""
    named = {"title" if name == "name" else name: value for name, value in tags.items()}  # QuickTime's word for it
    return {
        name: value
        for name, value in named.items()
        if name.lower() not in _OLD_TAGS and not name.lower().startswith(_STATISTICS)
    }
