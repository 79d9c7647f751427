"""How footage is upscaled, and the spec that follows from it."""

from dataclasses import dataclass

from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.codecs import CODECS
from longtake.pipeline.footage.deinterlace import AUTO, MODES
from longtake.pipeline.media.times import DAMAGED, STOP
from longtake.pipeline.upscaling.plan import UpscaleSpec, parse_continuity
from longtake.pipeline.weights.options import Numerics, check_numerics


@dataclass(frozen=True)
class UpscaleOptions:
    """How footage is upscaled; see the help of `longtake upscale`."""

    scale: int = 2
    workers: int | None = None
    codec: str = "h264"
    quality: int | None = None
    continuity: str = "exact"
    start: str | None = None
    end: str | None = None
    scene_threshold: float = UpscaleSpec.scene_threshold
    segment_frames: int = UpscaleSpec.segment_frames
    fresh: bool = False
    in_process: bool = False
    address: str | None = None
    model: str = "upscaler"
    device: str = "auto"
    threads: int = 1
    segment_deadline_s: float = 900.0
    damaged: str = STOP
    deinterlace: str = AUTO
    numerics: str = "exact"

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise SpecError(f"--codec is {self.codec!r}; use {', '.join(CODECS)}")
        check_numerics(self.numerics)
        if self.deinterlace not in MODES:
            raise SpecError(f"--deinterlace is {self.deinterlace!r}; use {' or '.join(MODES)}")
        if self.damaged not in DAMAGED:
            raise SpecError(f"--damaged is {self.damaged!r}; use {', '.join(DAMAGED[:-1])} or {DAMAGED[-1]}")
        if self.in_process and (self.workers or 1) > 1:
            raise SpecError(f"--in-process is one worker, not {self.workers}; leave out --in-process or --workers")
        if self.in_process and self.address is not None:
            raise SpecError(
                f"--address is {self.address}, but --in-process works without Ray; leave one of the two out"
            )

    @property
    def policy(self) -> Numerics:
        """Which processors may take part. Raises `SpecError` for an unknown policy."""
        return check_numerics(self.numerics)

    @property
    def spec(self) -> UpscaleSpec:
        """What to make. Raises `SpecError` if it is impossible."""
        return UpscaleSpec(
            scale=self.scale,
            codec=self.codec,
            quality=self.quality,
            continuity=parse_continuity(self.continuity),
            start=self.start,
            end=self.end,
            segment_frames=self.segment_frames,
            scene_threshold=self.scene_threshold,
        )
