"""`longtake score`: a film gets another sound, and every packet of its picture stays."""

from fractions import Fraction

import av
import numpy as np
import pytest

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.rescore import check_rescored, write_rescored
from longtake.pipeline.media.read import read_film

PROMPT = "a red circle bounces"


def write_clip(path, codec="libx264", late_s=0, options=None, frames=40):
    """A film of 25 pictures a second with a tone, whose picture begins `late_s` after it."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream(codec, rate=25, options=options or {})
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=16_000, layout="mono")
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 6 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + 25 * late_s, Fraction(1, 25)
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        tone = np.sin(np.arange(32_000) / 5, dtype=np.float32)
        for number, piece in enumerate(tone.reshape(-1, 1000)):
            frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1000 * number
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def packets_of(path):
    with av.open(str(path)) as film:
        return [bytes(packet) for packet in film.demux(film.streams.video[0]) if packet.size]


@pytest.fixture
def score(command):
    return lambda *arguments: command("score", *arguments, "--model", "tiny", "--in-process", "--progress", "none")


def test_the_picture_stays_and_the_sound_is_rendered(score, tmp_path):
    clip, out = write_clip(tmp_path / "clip.mp4"), tmp_path / "scored.mp4"
    call = (clip, "-o", out, "--prompt", PROMPT, "--set", "sampling.steps=1")
    assert score(*call).returncode == 0
    assert packets_of(out) == packets_of(clip)
    before, after = read_film(str(clip)), read_film(str(out))
    assert after.frame_times_s == before.frame_times_s
    assert after.sample_rate == 16_000
    assert not np.allclose(before.pcm[0, 4000:8000], after.pcm[0, 4000:8000], atol=0.1)
    written = out.stat().st_mtime_ns
    assert score(*call).returncode == 0
    assert out.stat().st_mtime_ns == written, "nothing to do"
    assert score(clip, "-o", clip, "--prompt", PROMPT).returncode == 2


@pytest.mark.parametrize(
    ("name", "codec", "late_s", "options"),
    [
        ("late.mkv", "libx264", 1, {"bf": "2"}),
        ("mpeg4.avi", "mpeg4", 0, {}),
        ("plain.mp4", "libx264", 0, {"bf": "0"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_any_picture_keeps_its_packets_and_begins_with_the_new_sound(tmp_path, name, codec, late_s, options, suffix):
    clip, sound = write_clip(tmp_path / name, codec, late_s, options), write_clip(tmp_path / "sound.mp4")
    out = tmp_path / f"out{suffix}"
    notes = write_rescored(open_footage(str(clip)), str(sound), out)
    assert packets_of(out) == packets_of(clip)
    film, before, given = (read_film(str(path)) for path in (out, clip, sound))
    times, expected = (np.array([*map(float, each.frame_times_s)]) for each in (film, before))
    assert np.allclose(np.diff(times), np.diff(expected), atol=0.002)
    # Matroska has no edit list that hides the 1,024 samples with which AAC begins.
    priming = 1024 if suffix == ".mkv" else 0
    assert times[0] == priming / 16_000
    assert np.allclose(film.pcm[:, priming : priming + 16_000], given.pcm[:, :16_000], atol=1e-6)
    assert bool(notes) == bool(priming)


def test_a_container_that_cannot_hold_the_picture_is_refused_before_any_work(score, tmp_path):
    clip = write_clip(tmp_path / "clip.avi", "ffvhuff")
    with pytest.raises(MediaError, match=r"cannot hold the picture of .*clip.avi \(ffvhuff\) as it is; use another"):
        check_rescored(open_footage(str(clip)), tmp_path / "out.mp4")
    with pytest.raises(MediaError, match=r"out.webm: footage with another sound is written to .mp4, .mov, .mkv"):
        check_rescored(open_footage(str(clip)), tmp_path / "out.webm")
    refused = score(clip, "-o", tmp_path / "out.mp4", "--prompt", PROMPT)
    assert refused.returncode in (1, 2)
    assert "as it is; use another container" in refused.stderr
    assert not list(tmp_path.glob("out*"))
