"""Random clips of captioned footage, converted to the model's size, frame rate and sample rate.

A folder or any fsspec URL holds the clips and one of

    captions.jsonl      {"file": "harbour/0007.mp4", "prompt": "a boat leaves the harbour"} on every line
    captions.csv        the columns `file` and `prompt`, named in the first line

Shapes: b clips, f frames, h w pixels, m channels, n samples, s samples of the source.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import StringIO
from math import ceil, floor
from typing import IO, Any

import av
import decord
import fsspec
import numpy as np
import torch
from av.container import InputContainer
from einops import rearrange
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import resample
from typing_extensions import override

from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.media.ffmpeg import reported
from longtake.pipeline.training.source import Clips, ClipSource, Key

MARGIN_S = Fraction(1, 50)  # context that the resampler needs on both sides
PREROLL_S = Fraction(1, 5)  # an audio decoder needs some packets before its output is correct
ROUNDING_S = 1e-3  # decord reports times in float32
MOVED = 0.1  # pixels that change by more, on a scale of 2, count as moving
MAX_LISTED = 8
BATCH = 8  # pictures held in their original size, which may be large


@dataclass(frozen=True)
class ClipFormat:
    """The picture and sound format of a model.

    Args:
        fps: frames per second.
        sample_rate: samples per second of the sound.
        channels: of the sound, 1 or 2.
    """

    fps: Fraction
    width: int
    height: int
    sample_rate: int
    channels: int = 1


@dataclass(frozen=True)
class Footage:
    """One file: its name, its caption, and the time span of its pictures."""

    file: str
    prompt: str
    start_s: Fraction
    stop_s: Fraction


class ClipFolder(ClipSource):
    """Clips from a folder of captioned files.

    Key and number of a clip determine its file and start time. Each output frame is the picture shown at the middle of
    the frame's time, scaled to cover the output size and centre-cropped. Sound is mixed to mono or stereo; files
    without sound give silence. `Clips.near` marks moving pixels.

    Args:
        url: a folder or any fsspec URL with captions. Remote files are downloaded whole.

    Raises:
        SpecError: the captions are missing or malformed.
        MediaError: a file cannot be read.
    """

    def __init__(self, url: str, clip_format: ClipFormat) -> None:
        self._url, self._format, self.fps = url, clip_format, clip_format.fps
        self._fs: Any
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SpecError(f"data is {url}; it cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")
        self._footage = tuple(self._measured(file, prompt) for file, prompt in self._captions())
        self._long_enough: set[Fraction] = set()

    @property
    def prompts(self) -> frozenset[str]:
        """All captions."""
        return frozenset(footage.prompt for footage in self._footage)

    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        """Clips of `seconds`; `switch` has no effect, since a file has one prompt.

        Raises:
            MediaError: a file is damaged, or some are shorter than `seconds`.
        """
        moments = [self._moment(key, number, seconds) for number in numbers]
        frames = torch.stack([self._frames(footage, start_s, seconds) for footage, start_s in moments])
        return Clips(
            frames=frames,
            sound=torch.stack([self._sound(footage, start_s, seconds) for footage, start_s in moments]),
            near=_moving(frames),
            prompts=tuple(footage.prompt for footage, _ in moments),
            since_s=(0.0,) * len(moments),
        )

    @override
    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        moments = [self._moment(key, number, seconds) for number in numbers]
        return torch.stack([self._sound(footage, start_s, seconds) for footage, start_s in moments])

    # ---------------------------------------------------------------- captions and lengths

    def _captions(self) -> list[tuple[str, str]]:
        for name, read in _READERS.items():
            try:
                text = self._fs.cat_file(f"{self._root}/{name}").decode("utf-8-sig")
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise SpecError(f"data is {self._url}; its {name} cannot be read: {error}") from error
            return _checked(f"{self._url.rstrip('/')}/{name}", read(text))
        raise SpecError(
            f"data is {self._url}; it has neither captions.jsonl nor captions.csv: write one, with a line"
            ' {"file": "name.mp4", "prompt": "what it shows"} for every clip'
        )

    def _measured(self, file: str, prompt: str) -> Footage:
        with self._container(file) as container:
            if not container.streams.video:
                raise MediaError(f"{self._name(file)} has no video; remove it from the captions")
            stream = container.streams.video[0]
            tick_s = stream.time_base or Fraction(0)
            start_s = (stream.start_time or 0) * tick_s
            length_s = (stream.duration or 0) * tick_s or Fraction(container.duration or 0, av.time_base)
        if length_s <= 0:
            raise MediaError(f"{self._name(file)} states no duration; remux it, for example to MP4")
        return Footage(file, prompt, start_s, start_s + length_s)

    def _check_length(self, seconds: Fraction) -> None:
        if seconds in self._long_enough:
            return
        short = [footage for footage in self._footage if footage.stop_s - footage.start_s < seconds]
        if short:
            listed = ", ".join(f"{clip.file} ({float(clip.stop_s - clip.start_s):g} s)" for clip in short[:MAX_LISTED])
            raise MediaError(
                f"{len(short)} of {len(self._footage)} clips in {self._url} are shorter than the {float(seconds):g} s"
                f" of a training clip: {listed}{', ...' if len(short) > MAX_LISTED else ''}; remove them from the"
                " captions, or train on shorter clips"
            )
        self._long_enough.add(seconds)

    def _moment(self, key: Key, number: int, seconds: Fraction) -> tuple[Footage, Fraction]:
        """The file of a clip and its start time, a whole number of output samples after the file's start."""
        self._check_length(seconds)
        rng = np.random.default_rng((*key, number))
        footage = self._footage[int(rng.integers(len(self._footage)))]
        latest = floor((footage.stop_s - footage.start_s - seconds) * self._format.sample_rate)
        return footage, footage.start_s + Fraction(int(rng.integers(latest + 1)), self._format.sample_rate)

    # ---------------------------------------------------------------- pictures

    def _frames(self, footage: Footage, start_s: Fraction, seconds: Fraction) -> Tensor:
        """The pictures of one clip, in -1..1 [f 3 h w]."""
        middles = [float(start_s + (index + Fraction(1, 2)) / self.fps) for index in range(round(seconds * self.fps))]
        name = self._name(footage.file)
        try:
            reader = self._reader(footage.file)
            spans = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
            shown = np.searchsorted(spans[:, 0], np.array(middles) + ROUNDING_S, side="right") - 1
            frames = self._covering(footage.file, reader, shown.clip(min=0).tolist())
        except (RuntimeError, decord.DECORDError, AssertionError, IndexError) as error:
            raise MediaError(f"reading the pictures of {name}: {str(error).splitlines()[0]}") from error
        if spans[-1, 1] < middles[-1] - ROUNDING_S:
            raise MediaError(
                f"{name} is damaged: its pictures end at {spans[-1, 1]:g} s, its header states"
                f" {float(footage.stop_s):g} s; remove it from the captions"
            )
        return frames

    def _covering(self, file: str, reader: Any, indices: list[int]) -> Tensor:
        """Pictures by their index in the file, in the output size: [f 3 h w] in -1..1."""
        height, width, channels = reader[indices[0]].shape
        if channels != 3:
            # For widths such as 32, 48, 96 or 144 decord mistakes the padding of rows for extra channels, then fails
            # (dmlc/decord#336). Rows of a multiple of 64 pixels are never padded; `_cover` restores the width.
            reader = self._reader(file, width=-(-width // 64) * 64, height=height)
        batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        pictures = (torch.from_numpy(reader.get_batch(batch).asnumpy()) for batch in batches)
        target = self._format
        return torch.cat([_cover(some, (height, width), target.height, target.width) for some in pictures])

    def _reader(self, file: str, **size: int) -> Any:
        if isinstance(self._fs, LocalFileSystem):
            return decord.VideoReader(self._path(file), num_threads=1, **size)
        with self._file(file) as opened:
            return decord.VideoReader(opened, num_threads=1, **size)

    # ---------------------------------------------------------------- sound

    def _sound(self, footage: Footage, start_s: Fraction, seconds: Fraction) -> Tensor:
        """The sound of one clip, in -1..1: mono [n], stereo [m n]."""
        rate, num_samples = self._format.sample_rate, round(seconds * self._format.sample_rate)
        channels = self._format.channels
        with self._container(footage.file) as container:
            if not container.streams.audio:
                return torch.zeros(channels, num_samples).squeeze(0)
            source_rate = container.streams.audio[0].rate
            first = floor((start_s - MARGIN_S) * source_rate)
            source = _read_sound(container, first, ceil((seconds + 2 * MARGIN_S) * source_rate) + 1, channels)
        skipped = round((start_s - Fraction(first, source_rate)) * rate)
        sound: Tensor = resample(torch.from_numpy(source), source_rate, rate)[:, skipped : skipped + num_samples]
        return sound.clamp(-1, 1).squeeze(0)

    # ---------------------------------------------------------------- files

    @contextmanager
    def _container(self, file: str) -> Iterator[InputContainer]:
        what = f"reading {self._name(file)}"
        with self._file(file) as opened, reported(what), av.open(opened, "r") as container:
            yield container

    @contextmanager
    def _file(self, file: str) -> Iterator[IO[bytes]]:
        try:
            opened = self._fs.open(self._path(file), "rb")
        except OSError as error:
            raise MediaError(f"{self._name(file)} cannot be read: {error}; does it exist?") from error
        with opened:
            yield opened

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}"

    def _name(self, file: str) -> str:
        return f"{self._url.rstrip('/')}/{file}"


# -------------------------------------------------------------------- captions


def _read_jsonl(text: str) -> Iterator[tuple[int, Any]]:
    """Numbered lines without empty ones; a line that is not JSON gives None."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _read_csv(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(StringIO(text))
    for row in reader:
        yield reader.line_num, row


_READERS: Mapping[str, Callable[[str], Iterator[tuple[int, Any]]]] = {
    "captions.jsonl": _read_jsonl,
    "captions.csv": _read_csv,
}


def _checked(name: str, rows: Iterator[tuple[int, Any]]) -> list[tuple[str, str]]:
    captions, mistakes = [], []
    for number, row in rows:
        file, prompt = (row.get("file"), row.get("prompt")) if isinstance(row, dict) else (None, None)
        if not isinstance(file, str) or not isinstance(prompt, str) or not file or not prompt.strip():
            mistakes.append(f'{name}: line {number} needs "file" and "prompt", both strings')
        elif ".." in file.split("/") or file.startswith("/"):
            mistakes.append(f"{name}: line {number} names {file}; use a path inside that folder")
        else:
            captions.append((file, prompt.strip()))
    if not captions and not mistakes:
        mistakes.append(f"{name} lists no clips")
    if mistakes:
        more = [f"... and {len(mistakes) - MAX_LISTED} more"] if len(mistakes) > MAX_LISTED else []
        raise SpecError("\n".join(mistakes[:MAX_LISTED] + more))
    return captions


# -------------------------------------------------------------------- pictures and samples


def _cover(pictures: Tensor, shape: tuple[int, int], height: int, width: int) -> Tensor:
    """Pictures uint8 [f h w 3] whose true size is `shape`, scaled to cover height and width, and centre-cropped.

    Returns [f 3 height width] in -1..1.
    """
    frames = rearrange(pictures, "f h w c -> f c h w").float() / 127.5 - 1
    scale = max(Fraction(height, shape[0]), Fraction(width, shape[1]))
    size = [max(round(scale * side), least) for side, least in zip(shape, (height, width), strict=True)]
    if size != list(frames.shape[2:]):
        frames = functional.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[:, :, top : top + height, left : left + width]


def _moving(frames: Tensor) -> Tensor:
    """1 at pixels that differ from the frame before or after: [b f 3 h w] to [b f h w]."""
    change = functional.pad((frames.diff(dim=1).abs().amax(dim=2) > MOVED).float(), (0, 0, 0, 0, 1, 1))
    return torch.maximum(change[:, :-1], change[:, 1:])


def _read_sound(container: InputContainer, first: int, num_samples: int, channels: int) -> NDArray[np.float32]:
    """`num_samples` samples of a container's sound from sample `first` on, mixed to mono or stereo [m s]; 0 where it
    has none."""
    stream = container.streams.audio[0]
    tick_s = stream.time_base or Fraction(1, stream.rate)
    wanted = max(floor((Fraction(first, stream.rate) - PREROLL_S) / tick_s), stream.start_time or 0)
    container.seek(wanted, stream=stream)
    to_float = av.AudioResampler(format="fltp", layout="stereo" if channels == 2 else None)
    sound = np.zeros((channels, num_samples), dtype=np.float32)
    for frame in container.decode(stream):
        at = round((frame.pts or 0) * tick_s * stream.rate) - first
        if at >= num_samples:
            break
        for planar in to_float.resample(frame):
            samples = planar.to_ndarray()
            samples = samples.mean(axis=0, keepdims=True) if channels == 1 else samples
            begin, end = max(at, 0), min(at + samples.shape[1], num_samples)
            if begin < end:
                sound[:, begin:end] = samples[:, begin - at : end - at]
            at += samples.shape[1]
    return sound
