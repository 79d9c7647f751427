"""The codecs for footage: what each can keep of a source, and the options that make it repeatable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.colour import Layout, layout_of, matrix_of
from longtake.pipeline.footage.values import Colour, Footage

# At least this often a key frame, so that players can seek inside a long segment.
_KEY_EVERY = 240


@dataclass(frozen=True)
class _Codec:
    encoder: str
    depths: tuple[int, ...]
    chroma: tuple[str, ...]
    quality: tuple[int, int, int]  # best, default, worst
    containers: tuple[str, ...]
    min_size: int


_CODECS = {
    "h264": _Codec("libx264", (8, 10), ("420", "422", "444"), (0, 18, 51), (".mp4", ".mov", ".mkv"), 16),
    "hevc": _Codec("libx265", (8, 10, 12), ("420", "422", "444", "rgb"), (0, 20, 51), (".mp4", ".mov", ".mkv"), 32),
    "av1": _Codec("libsvtav1", (8, 10), ("420",), (1, 28, 63), (".mp4", ".mkv"), 64),
    "ffv1": _Codec(
        "ffv1",
        (8, 9, 10, 12, 14, 16),
        ("420", "422", "444", "440", "411", "410", "gray", "rgb"),
        (0, 0, 0),
        (".mkv",),
        1,
    ),
}
CODECS = tuple(_CODECS)


@dataclass(frozen=True)
class FootageEncoding:
    """How footage is encoded.

    Args:
        codec: "h264", "hevc", "av1" or "ffv1" (lossless).
        quality: the codec's fixed quantiser: 0..51 for h264 and hevc, 1..63 for av1, smaller is better; None for the
            codec's default. ffv1 has none.
        threads: encoder threads. Their number changes the output bits.
    """

    codec: str = "h264"
    quality: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise MediaError(f"codec is {self.codec!r}; known are {', '.join(_CODECS)}")
        best, _, worst = _CODECS[self.codec].quality
        if self.quality is not None and not best <= self.quality <= worst:
            raise MediaError(f"quality is {self.quality}; {self.codec} knows {best} (best) to {worst} (worst)")
        if self.threads < 1:
            raise MediaError(f"threads is {self.threads}; the encoder needs a fixed number of at least 1")

    @property
    def quantiser(self) -> int:
        """The quality, or the codec's default."""
        return _CODECS[self.codec].quality[1] if self.quality is None else self.quality

    @property
    def containers(self) -> tuple[str, ...]:
        """Suffixes of the files that can hold the codec."""
        return _CODECS[self.codec].containers


@dataclass(frozen=True)
class Target:
    """The form of a source in a codec.

    Args:
        encoder: FFmpeg's name.
        layout: of the samples.
        colour: the tags.
        losses: what the codec cannot keep of the source, in words.
    """

    footage: Footage
    encoder: str
    layout: Layout
    colour: Colour
    losses: tuple[str, ...]
    min_size: int

    def check_size(self, width: int, height: int) -> None:
        """Raise `MediaError` for a size that the codec cannot hold."""
        if min(width, height) < self.min_size:
            raise MediaError(f"{width}x{height} is too small for {self.encoder}, which needs {self.min_size}; use ffv1")
        for name, size, step in (("width", width, 2), ("height", height, 2)):
            if self.layout.chroma not in {"444", "gray", "rgb"} and size % step:
                raise MediaError(f"{name} is {size}; {self.layout.planar} needs even sizes: enlarge by 2 or 4")

    def matrix(self, height: int) -> int:
        """The matrix to encode with: the tagged one, else the default for untagged pictures of that height."""
        return matrix_of(self.colour, height)

    def options(self, encoding: FootageEncoding) -> dict[str, str]:
        """The encoder's options: repeatable bits, and no B-frames."""
        return _OPTIONS[encoding.codec](self.footage, encoding)


def target_of(footage: Footage, encoding: FootageEncoding) -> Target:
    """The form of `footage` in a codec: the nearest that the codec can hold, with its losses in words."""
    codec, source = _CODECS[encoding.codec], layout_of(footage.pix_fmt)
    depth = next((depth for depth in codec.depths if depth >= source.depth), codec.depths[-1])
    chroma = next(name for name in _INSTEAD[source.chroma] if name in codec.chroma)
    losses = [f"alpha: {encoding.codec} is written without it"] if source.alpha else []
    if depth < source.depth:
        losses.append(f"{source.depth} bits: {encoding.codec} holds {depth}")
    if chroma == "420" and source.chroma not in {"420", "410", "gray"}:
        losses.append(f"{source.chroma} chroma: {encoding.codec} holds 4:2:0")
    if footage.interlaced:
        losses.append("interlacing: fields are enlarged and written as whole pictures; deinterlace first")
    colour = footage.colour
    if source.full_range and colour.range == 0:
        colour = replace(colour, range=2)
    if source.chroma == "rgb" and chroma != "rgb":
        losses.append(f"RGB samples: {encoding.codec} holds them as BT.709 {chroma}")
        colour = replace(colour, matrix=1, range=1)
    layout = Layout(chroma, depth)
    return Target(footage, codec.encoder, layout, colour, tuple(losses), codec.min_size)


# Substitutes for a layout that a codec lacks, the nearest first. None loses more chroma than it must.
_INSTEAD = {
    "420": ("420",),
    "422": ("422", "420"),
    "444": ("444", "420"),
    "440": ("440", "444", "420"),
    "411": ("411", "422", "420"),
    "410": ("410", "420"),
    "gray": ("gray", "420"),
    "rgb": ("rgb", "444", "420"),
}


def _x264(footage: Footage, encoding: FootageEncoding) -> dict[str, str]:
    params: dict[str, object] = {
        "keyint": _KEY_EVERY,
        "scenecut": 0,
        "mbtree": 0,
        "rc-lookahead": 0,
        "sync-lookahead": 0,
    }
    if footage.mastering is not None:
        params |= _quoted("mastering-display", _mastering(footage, 50_000, 10_000))
    if footage.light_level is not None:
        params |= _quoted("cll", _light(footage))
    return {"preset": "medium", "bf": "0", "qp": str(encoding.quantiser), "x264-params": _joined(params)}


def _x265(footage: Footage, encoding: FootageEncoding) -> dict[str, str]:
    params: dict[str, object] = {
        "qp": encoding.quantiser,
        "bframes": 0,
        "keyint": _KEY_EVERY,
        "min-keyint": _KEY_EVERY,
        "scenecut": 0,
        "open-gop": 0,
        "rc-lookahead": 0,
        "cutree": 0,
        "repeat-headers": 0,
        "info": 0,
        "frame-threads": 1,
        "pools": "none" if encoding.threads == 1 else encoding.threads,
        "log-level": "none",
    }
    if footage.mastering is not None:
        params |= _quoted("master-display", _mastering(footage, 50_000, 10_000))
    if footage.light_level is not None:
        params |= _quoted("max-cll", _light(footage))
    return {"preset": "medium", "x265-params": _joined(params)}


def _svt(footage: Footage, encoding: FootageEncoding) -> dict[str, str]:
    params: dict[str, object] = {
        "rc": 0,
        "aq-mode": 0,
        "qp": encoding.quantiser,
        "pred-struct": 1,  # low delay: decode order is display order
        "keyint": _KEY_EVERY,
        "scd": 0,
        "lp": encoding.threads,
    }
    if footage.mastering is not None:
        params |= _quoted("mastering-display", _mastering(footage, 1, 1))
    if footage.light_level is not None:
        params |= _quoted("content-light", _light(footage))
    return {"preset": "8", "svtav1-params": _joined(params)}


def _ffv1(_: Footage, __: FootageEncoding) -> dict[str, str]:
    return {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"}


_OPTIONS = {"h264": _x264, "hevc": _x265, "av1": _svt, "ffv1": _ffv1}


def _mastering(footage: Footage, colour_units: int, light_units: int) -> str:
    """As encoders take it: `G(x,y)B(x,y)R(x,y)WP(x,y)L(brightest,darkest)`."""
    mastering = footage.mastering
    if mastering is None or mastering.primaries is None or mastering.white_point is None or mastering.luminance is None:
        return ""
    red, green, blue = mastering.primaries
    darkest, brightest = mastering.luminance
    points = {"G": green, "B": blue, "R": red, "WP": mastering.white_point}
    named = "".join(f"{name}({_in(x, colour_units)},{_in(y, colour_units)})" for name, (x, y) in points.items())
    return f"{named}L({_in(brightest, light_units)},{_in(darkest, light_units)})"


def _in(value: Fraction, units: int) -> str:
    return f"{float(value):.6f}" if units == 1 else str(round(value * units))


def _light(footage: Footage) -> str:
    level = footage.light_level
    return "" if level is None else f"{level.max_content},{level.max_frame_average}"


def _quoted(name: str, value: str) -> dict[str, object]:
    return {name: value} if value else {}


def _joined(params: Mapping[str, object]) -> str:
    return ":".join(f"{name}={value}" for name, value in params.items())
