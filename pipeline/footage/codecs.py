"""The codecs for footage: what each can keep of a source, and the options that make it repeatable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from longtake.pipeline.errors import EncodingError
from longtake.pipeline.footage.colour import Layout, layout_of, matrix_of
from longtake.pipeline.footage.values import Colour, Footage

_FFV1_RGB_DEPTH = 10  # FFmpeg's encoder takes 8 bits only in packed pixels
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
    most_rate: int | None = None
    alpha: tuple[str, ...] = ()  # chroma with which transparency is kept


_CODECS = {
    "h264": _Codec("libx264", (8, 10), ("420", "422", "444"), (0, 18, 51), (".mp4", ".mov", ".mkv"), 16),
    "hevc": _Codec("libx265", (8, 10, 12), ("420", "422", "444", "rgb"), (0, 20, 51), (".mp4", ".mov", ".mkv"), 32),
    "av1": _Codec("libsvtav1", (8, 10), ("420",), (1, 28, 63), (".mp4", ".mkv"), 64, most_rate=240),
    "ffv1": _Codec(
        "ffv1",
        (8, 9, 10, 12, 14, 16),
        ("420", "422", "444", "440", "411", "410", "gray", "rgb"),
        (0, 0, 0),
        (".mkv",),
        1,
        alpha=("420", "422", "444", "rgb"),
    ),
    "prores": _Codec("prores_ks", (10,), ("422", "444"), (1, 4, 32), (".mov", ".mkv"), 16, alpha=("444",)),
}
CODECS = tuple(_CODECS)


@dataclass(frozen=True)
class FootageEncoding:
    """How footage is encoded.

    Args:
        codec: "h264", "hevc", "av1", "ffv1" (lossless) or "prores".
        quality: the codec's fixed quantiser: 0..51 for h264 and hevc, 1..63 for av1, 1..32 for prores, smaller is
            better; None for the codec's default. ffv1 has none.
        threads: encoder threads. Their number changes the output bits.
    """

    codec: str = "h264"
    quality: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise EncodingError(f"codec is {self.codec!r}; known are {', '.join(_CODECS)}")
        best, _, worst = _CODECS[self.codec].quality
        if self.quality is not None and not best <= self.quality <= worst:
            raise EncodingError(f"quality is {self.quality}; {self.codec} knows {best} (best) to {worst} (worst)")
        if self.threads < 1:
            raise EncodingError(f"threads is {self.threads}; the encoder needs a fixed number of at least 1")

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
    most_rate: int | None

    def check_size(self, width: int, height: int) -> None:
        """Raise `EncodingError` for a size or a rate that the codec cannot hold."""
        if self.most_rate is not None and self.footage.encoded_rate > self.most_rate:
            raise EncodingError(
                f"the footage has {float(self.footage.encoded_rate):g} frames per second; {self.encoder} holds at most"
                f" {self.most_rate}: use --codec h264 or --codec hevc"
            )
        if min(width, height) < self.min_size:
            raise EncodingError(
                f"{width}x{height} is too small for {self.encoder}, which needs {self.min_size}; use ffv1"
            )
        for name, size, step in (("width", width, 2), ("height", height, 2)):
            if self.layout.chroma not in {"444", "gray", "rgb"} and size % step:
                raise EncodingError(f"{name} is {size}; {self.pix_fmt} needs even sizes: enlarge by 2 or 4")

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the format that is encoded."""
        return self.layout.with_alpha if self.layout.alpha else self.layout.planar

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
    alpha = source.alpha and bool(codec.alpha)
    wanted = "444" if alpha and source.chroma == "gray" else source.chroma
    chroma = next(name for name in _INSTEAD[wanted] if name in (codec.alpha if alpha else codec.chroma))
    if encoding.codec == "ffv1" and chroma == "rgb":
        depth = max(depth, _FFV1_RGB_DEPTH)
    losses = []
    if source.alpha and not alpha:
        keep = " or ".join(f"--codec {name}" for name, one in _CODECS.items() if one.alpha)
        losses.append(f"alpha: {encoding.codec} is written without it; {keep} keeps it")
    if depth < source.depth:
        losses.append(f"{source.depth} bits: {encoding.codec} holds {depth}")
    if chroma == "420" and source.chroma not in {"420", "410", "gray"}:
        losses.append(f"{source.chroma} chroma: {encoding.codec} holds 4:2:0")
    if footage.interlaced and not footage.deinterlaced:
        losses.append(
            "interlacing: fields are enlarged and written as whole pictures; --deinterlace auto takes them apart"
        )
    colour = footage.colour
    if source.full_range and colour.range == 0:
        colour = replace(colour, range=2)
    if source.chroma == "rgb" and chroma != "rgb":
        losses.append(f"RGB samples: {encoding.codec} holds them as BT.709 {chroma}")
        colour = replace(colour, matrix=1, range=1)
    layout = Layout(chroma, depth, alpha=alpha)
    return Target(footage, codec.encoder, layout, colour, tuple(losses), codec.min_size, codec.most_rate)


# Substitutes for a layout that a codec lacks, the nearest first. None loses more chroma than it must.
_INSTEAD = {
    "420": ("420", "422", "444"),
    "422": ("422", "444", "420"),
    "444": ("444", "422", "420"),
    "440": ("440", "444", "420"),
    "411": ("411", "422", "420"),
    "410": ("410", "420", "422"),
    "gray": ("gray", "420", "422"),
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


def _prores(footage: Footage, encoding: FootageEncoding) -> dict[str, str]:
    profile = "4444" if target_of(footage, encoding).layout.chroma == "444" else "hq"
    quantiser = str(_LAMBDA * encoding.quantiser)
    return {"profile": profile, "alpha_bits": "16", "global_quality": quantiser, "flags": "+qscale"}


_LAMBDA = 118  # FFmpeg's unit of a quantiser

_OPTIONS = {"h264": _x264, "hevc": _x265, "av1": _svt, "ffv1": _ffv1, "prores": _prores}


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
