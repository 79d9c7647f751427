"""Mutated films, sounds and stills in a process of their own: each is read as it is, or refused by a sentence.

`python -m longtake.pipeline.testing.film_fuzz SEED FIRST STOP` prints a line before each file and reader, and one with
the outcome afterwards, so a process that dies or hangs shows which file it was.
"""

import random
import resource
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import torch

from longtake.pipeline.conditioning.files import read_last_frames, read_last_sound, read_picture, read_sound
from longtake.pipeline.errors import LongtakeError
from longtake.pipeline.footage.copy import lost_streams
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.inspect.report import inspect_film
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.media.read import reading
from longtake.pipeline.media.sound import stream_sound
from longtake.pipeline.testing.file_kinds import SOUNDS, STILLS, SoundKind, StillKind
from longtake.pipeline.testing.film_kinds import KINDS, Kind

MOST_BYTES = 1 << 30
"""By how much a reader's memory may grow over all files."""


def _upscaled(path: str) -> None:
    for damaged in ("stop", "hold"):
        try:
            footage = open_footage(path, damaged, "auto")
        except LongtakeError:
            if damaged == "stop":
                continue
            raise
        deque(read_pictures(footage, range(min(footage.num_frames, 40))), maxlen=0)
        lost_streams(footage, "mp4")


def _inspected(path: str) -> None:
    inspect_film(open_subject(path))


def _sound(path: str) -> None:
    sound = stream_sound(path)
    for number, _ in enumerate(() if sound is None else sound.blocks):
        if number > 1000:
            break
    read_sound(path, 16_000, 1, most=16_000)


def _continued(path: str) -> None:
    reading(path)
    read_last_frames(path, 4, Fraction(16), 32, 32)
    read_last_sound(path, 1600, 16_000, 1)


READERS: dict[str, Callable[[str], object]] = {
    "upscale": _upscaled,
    "inspect": _inspected,
    "audio": _sound,
    "image": lambda path: read_picture(path, 32, 32),
    "continue_from": _continued,
}
"""What reads films, sounds and stills, by the command or the key of a storyboard."""

_FILES: tuple[Kind | SoundKind | StillKind, ...] = (*KINDS, *SOUNDS, *STILLS)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with one to eight faults: other bytes, bits and sizes, pieces that are lost, repeated or zero."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at, length = chance.randrange(len(content)), chance.choice((1, 2, 4, 8, 64, 400))
        match chance.randrange(7):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at : at + length] = chance.randbytes(length)
            case 2:
                content[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x01"))
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length]
            case 5:
                content[at : at + length] = bytes(length)
            case _ if chance.random() < 0.2:
                del content[at:]
        content = content or bytearray(1)
    return bytes(content)


def main(seed: int, first: int, stop: int) -> None:
    """Read files `first` to `stop` of a series with every reader."""
    av.logging.set_level(None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="longtake-fuzz-") as folder:
        for number in range(first, stop):
            chance = random.Random(f"{seed} {number}")
            kind = chance.choice(_FILES)
            source = Path(folder) / kind.name
            if not source.exists():
                kind.write(Path(folder))
            path = Path(folder) / f"mutated{source.suffix}"
            path.write_bytes(mutated(source.read_bytes(), chance))
            for reader, read in READERS.items():
                _say(f"{number} {reader} {kind.name}")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                outcome = _outcome(read, str(path))
                grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
                _say(f"{number} {outcome if grown < MOST_BYTES else f'grew by {grown} bytes'}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _outcome(read: Callable[[str], object], path: str) -> str:
    try:
        read(path)
    except LongtakeError as error:
        return "refused" if str(error).strip() else "refused without a word"
    except Exception as error:  # noqa: BLE001 (what this is looking for)
        return f"raised {type(error).__name__}: {error}".replace("\n", " ")[:300]
    return "read"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
