"""Publish: segments, in order, become a live playlist while the film is rendered, and an MP4 once it is complete."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from longtake.pipeline.errors import MediaError
from longtake.pipeline.guards import guard
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.aac import AacEncoder
from longtake.pipeline.media.hls import MASTER_NAME, LiveFilm
from longtake.pipeline.media.mp4 import FilmFile, Sample, video_track
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import Segment


@dataclass(frozen=True)
class PublishOptions:
    """How a film is published.

    Args:
        fps: frames per second.
        longest_chunk_s: duration of the longest chunk, which a live playlist states at its start.
        film_name: the film's name in the output root.
        hls: whether to publish the film under `live/` while it is rendered.
        title: the film's title tag; none if empty.
        comment: the film's comment tag, such as "untrained weights"; none if empty.
        scratch_dir: the folder on this machine for the unfinished film, which needs about the film's size. Files that
            a killed publisher left there are removed. None for the system's temporary directory.
    """

    fps: Fraction
    longest_chunk_s: Fraction
    film_name: str = "film.mp4"
    hls: bool = True
    title: str = ""
    comment: str = ""
    scratch_dir: Path | None = None

    @classmethod
    def of(cls, plan: FilmPlan, comment: str, scratch_dir: Path | None = None) -> Self:
        """The options of a planned film."""
        output = plan.storyboard.output
        longest_chunk_s = max(len(chunk.frames) for chunk in plan.chunks) / plan.clock.fps
        return cls(
            fps=plan.clock.fps,
            longest_chunk_s=longest_chunk_s,
            film_name=output.film,
            hls=output.hls,
            title=plan.storyboard.title,
            comment=comment,
            scratch_dir=scratch_dir,
        )

    @property
    def metadata(self) -> dict[str, str]:
        """The container tags that have a value."""
        tags = {"title": self.title, "comment": self.comment}
        return {name: value for name, value in tags.items() if value}


@dataclass(frozen=True)
class Film:
    """A published film.

    Args:
        url: of its MP4.
        playlist_url: of its HLS master playlist; None if it has none.
        num_frames: frames, exact.
        num_samples: sound samples per channel, exact; 0 for a silent film.
        duration_s: the picture's duration, exact; the sound ends less than one sample before it.
    """

    url: str
    playlist_url: str | None
    num_frames: int
    num_samples: int
    duration_s: Fraction


class PublishStage:
    """Takes a film's segments in order: `with PublishStage(store, options) as publish: publish(segment)`.

    Leaving the context finishes the film and puts it into the store as a whole. Leaving it with an exception closes
    everything and stores no film; the live playlist stays, and a resumed film continues it. If the first segment's
    sound has no channels, the film is silent. Memory is constant, apart from about 50 MB of index an hour.
    """

    def __init__(self, store: Store, options: PublishOptions) -> None:
        self._store, self._options = store, options
        self._growing: _GrowingFilm | None = None
        self._film: Film | None = None

    @property
    def film(self) -> Film:
        """The published film. Raises `MediaError` until the context was left without an exception."""
        if self._film is None:
            raise MediaError(f"{self._options.film_name} is not published yet; leave the publisher's context first")
        return self._film

    def __enter__(self) -> Self:
        if self._options.scratch_dir is not None:
            rmtree(self._options.scratch_dir, ignore_errors=True)
            self._options.scratch_dir.mkdir(parents=True)
        return self

    def __call__(self, segment: Segment) -> None:
        """Publish the film's next segment. Raises `MediaError` if it does not continue the film."""
        guard("publish", "samples of the sound", segment.sound.pcm, f"chunk {segment.span.index}", None)
        if self._growing is None:
            self._growing = _GrowingFilm(self._store, self._options, segment)
        self._growing.append(segment)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        growing, self._growing = self._growing, None
        if growing is None:
            if kind is None:
                raise MediaError("the film has no segment; publish at least one before leaving the publisher")
            return
        with growing.resources:
            if kind is None:
                self._film = growing.finish()


class _GrowingFilm:
    """All files and encoders that are open while a film grows. Closing `resources` closes them."""

    def __init__(self, store: Store, options: PublishOptions, first: Segment) -> None:
        self._store, self._options, self._format = store, options, first.format
        self._num_frames = self._num_chunks = 0
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="longtake-", dir=options.scratch_dir))
            self._path = Path(folder) / "film.mp4"
            packet = first.packets[0].data
            self._video = stack.enter_context(video_track(first.format, packet, options.fps))
            self._sound = _open_sound(first, stack)
            tracks = [self._video] if self._sound is None else [self._video, self._sound.track]
            self._file = FilmFile(self._path, tracks, options.metadata)
            stack.callback(self._file.abort)
            self._live = self._open_live() if options.hls else None
            self.resources = stack.pop_all()

    def _open_live(self) -> LiveFilm:
        return LiveFilm(
            self._store,
            self._video,
            None if self._sound is None else self._sound.track,
            size=(self._format.width, self._format.height),
            fps=self._options.fps,
            channels=0 if self._sound is None else self._sound.channels,
            longest_chunk_s=self._options.longest_chunk_s,
        )

    def append(self, segment: Segment) -> None:
        self._check(segment)
        ticks = self._options.fps.denominator
        picture = [Sample(packet.frame * ticks, ticks, packet.keyframe, packet.data) for packet in segment.packets]
        sound = () if self._sound is None else self._sound.encode(segment.sound)
        self._file.write(0, picture)
        self._write_sound(sound)
        if self._live is not None:
            self._live.append(picture, sound)
        self._num_chunks += 1
        self._num_frames = segment.span.frames.stop

    def finish(self) -> Film:
        duration_s = self._num_frames / self._options.fps
        sound: Sequence[Sample] = ()
        if self._sound is not None:
            _check_length(self._sound, duration_s)
            sound = self._sound.flush()
        self._write_sound(sound)
        self._file.close()
        self._store.put_file(self._options.film_name, self._path)
        if self._live is not None:
            self._live.finish(sound)
        return Film(
            url=self._store.url_of(self._options.film_name),
            playlist_url=None if self._live is None else self._store.url_of(MASTER_NAME),
            num_frames=self._num_frames,
            num_samples=0 if self._sound is None else self._sound.num_samples,
            duration_s=duration_s,
        )

    def _write_sound(self, sound: Sequence[Sample]) -> None:
        if sound:
            self._file.write(1, sound)

    def _check(self, segment: Segment) -> None:
        span = segment.span
        if (span.index, span.frames.start) != (self._num_chunks, self._num_frames):
            raise MediaError(
                f"segment {span.index} starts at frame {span.frames.start}, but the film continues with segment"
                f" {self._num_chunks} at frame {self._num_frames}; publish every segment once, in order"
            )
        if segment.format != self._format:
            raise MediaError(
                f"segment {span.index} is {segment.format}, but the film is {self._format};"
                " encode all segments with one size and one set of settings"
            )
        if self._sound is None and segment.sound.pcm.shape[0]:
            raise MediaError(
                f"segment {span.index} brings sound, but the film began as a silent one;"
                " give its first segment sound of the same channels, even if it has no samples"
            )


def _open_sound(first: Segment, stack: ExitStack) -> AacEncoder | None:
    channels = first.sound.pcm.shape[0]
    if not channels:
        return None
    encoder = AacEncoder(first.sound.sample_rate, channels)
    stack.callback(encoder.close)
    return encoder


def _check_length(sound: AacEncoder, duration_s: Fraction) -> None:
    wanted = floor(duration_s * sound.sample_rate)
    if sound.num_samples != wanted:
        raise MediaError(
            f"the film's sound ends at sample {sound.num_samples}, its picture at sample {wanted}"
            f" ({float(duration_s):g} s); the last sound chunk must end with the film"
        )
