"""Pictures as they are shown: EXIF orientations, display matrices, pixels that are not square; what is no picture."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from longtake.pipeline.conditioning.encoder import digests
from longtake.pipeline.conditioning.files import fitted, read_last_frames, read_picture
from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.read import read_still, reading
from longtake.pipeline.media.times import picture_times
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.testing.film_kinds import KINDS, TURN, Recipe
from tests.media.heif_grid import LEVELS, TILE, write_grid

# What a player does with a picture that is stored with an EXIF orientation.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


def stored():
    """uint8 [h w 3]: red at the top left, green at the top right."""
    rgb = np.full((32, 48, 3), 20, np.uint8)
    rgb[:16, :24, 0], rgb[:16, 24:, 1] = 220, 220
    return rgb


def jpeg(path, orientation):
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 48, 32, "yuvj444p", Fraction(1)
    frame = av.VideoFrame.from_ndarray(stored()).reformat(format="yuvj444p")
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    tag = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + data[2:])
    return str(path)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_is_upright(tmp_path, orientation):
    path = jpeg(tmp_path / "a.jpg", orientation)
    shown = read_still(path).frames[0]
    wanted = UPRIGHT[orientation](stored())
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 12
    assert read_picture(path, 32, 32).shape == (1, 3, 32, 32)
    assert bool(reading(path)) == (orientation != 1)


def test_pixels_that_are_not_square_are_shown_at_their_width(tmp_path):
    rings = np.zeros((1, 40, 40, 3), np.uint8)
    rings[:, :, 18:22] = 255
    for aspect in (Fraction(1 << 30), Fraction(1, 1 << 30)):
        with pytest.raises(MediaError, match=r"which would have to be \d+x\d+ to cover 80x40; crop it first"):
            fitted(rings, 80, 40, aspect)
    wide = fitted(rings, 80, 40, Fraction(2))
    assert wide.shape == (1, 3, 40, 80)
    assert (wide[0, 0, 20] > 0).sum() == pytest.approx(8, abs=1)
    path = Recipe(shape=Fraction(4, 3)).write(tmp_path / "a.mp4")
    assert read_still(str(path)).pixel_aspect == Fraction(4, 3)


def test_the_end_of_a_turned_film_is_upright(tmp_path):
    path = str(Recipe(size=(64, 32), matrix=TURN).write(tmp_path / "a.mp4"))
    still = read_still(path)
    assert (still.frames.shape, still.pixel_aspect) == ((1, 64, 32, 3), 1)
    assert read_last_frames(path, 2, Fraction(25), 32, 64).shape == (2, 3, 64, 32)


def test_files_that_were_always_read_alike_keep_their_digest_and_others_have_a_mark(tmp_path):
    marked = {}
    for kind in KINDS:
        if kind.name in {"h264.mp4", "png.mov", "h264.mkv", "ten-hours.ts", "trimmed.mp4", "turned.mp4", "aac-51.mp4"}:
            marked[kind.name] = bool(reading(kind.write(tmp_path)))
    assert marked == {
        "h264.mp4": False, "png.mov": False,
        "h264.mkv": True, "ten-hours.ts": True, "trimmed.mp4": True, "turned.mp4": True, "aac-51.mp4": True,
    }  # fmt: skip
    text = "title: t\nscenes: [{prompt: a, duration: 1s}]\n"
    plain, other = (
        digests(parse_storyboard(text, [f"audio={tmp_path}/{name}"]))["audio.file"]
        for name in ("h264.mp4", "aac-51.mp4")
    )
    assert (len(plain), other[64:]) == (64, ", read by its timestamps and as it is shown")


def test_an_animated_webp_is_named_as_what_it_is(tmp_path):
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0, 15, 0, 0, 15, 0, 0]) + b"ANIM" + struct.pack("<I", 6)
    body = b"WEBP" + chunk + bytes(6)
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(MediaError, match=r"a\.webp is an animated WebP, which FFmpeg cannot decode; convert it"):
        read_still(str(tmp_path / "a.webp"))


def test_an_encrypted_film_is_named_as_what_it_is(tmp_path):
    cipher = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16}
    path = str(Recipe(muxer=cipher).write(tmp_path / "a.mp4"))
    with pytest.raises(MediaError, match=r"a\.mp4 is encrypted .*; decrypt it first"):
        picture_times(path)


def test_a_picture_is_read_like_the_one_it_was_made_of(tmp_path):
    path = str(Recipe(codec="png", sound=None, pix_fmt="rgb24", num_pictures=1).write(tmp_path / "a.mov"))
    assert torch.equal(read_picture(path, 32, 32), torch.full((1, 3, 32, 32), 40 / 127.5 - 1))


@pytest.mark.parametrize("quarters", [0, 1])
def test_a_photo_of_tiles_is_put_together(tmp_path, quarters):
    path = write_grid(tmp_path / "a.avif", 100, 80, quarters)
    wanted = np.repeat(np.repeat(np.array(LEVELS).reshape(2, 2), TILE, axis=0), TILE, axis=1)[:80, :100]
    shown = read_still(path).frames[0]
    assert np.abs(shown.mean(axis=2) - np.rot90(wanted, quarters)).mean() < 4
    assert read_picture(path, 32, 32).shape == (1, 3, 32, 32)
    assert reading(path)
    with pytest.raises(MediaError, match="is a still of 4 tiles, which only `image` reads"):
        picture_times(path)
