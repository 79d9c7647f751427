from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest

from longtake.pipeline.conditioning.files import read_sound
from longtake.pipeline.media.sound import stream_sound
from longtake.pipeline.testing.film_kinds import CLICK_S, Recipe, remuxed

RATE = 48_000


def write(path, pcm, layout="mono", codec="pcm_s16le", rate=RATE):
    """A file of sound [c n] in -1..1."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, pcm.shape[1], 480):
            part = np.ascontiguousarray((pcm[:, start : start + 480] * 20_000).astype(np.int16).T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return str(path)


def heard(path, **options):
    sound = stream_sound(str(path), **options)
    return sound, np.concatenate(list(sound.blocks), axis=1)


def later(after_s, by_s):
    """Move the sound's packets that begin at `after_s` or later."""

    def change(packet):
        if packet.stream.type == "audio" and packet.pts * packet.time_base >= after_s:
            packet.pts = packet.dts = packet.pts + round(by_s / packet.time_base)
        return packet

    return change


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts", ".nut"])
@pytest.mark.parametrize("hole_s", [0.08, 2.0])
def test_a_hole_in_the_sound_is_silent_and_what_follows_stays_in_its_place(tmp_path, suffix, hole_s):
    recipe = Recipe(sound="aac" if suffix in {".ts", ".mp4"} else "pcm_s16le")
    source = recipe.write(tmp_path / f"a{suffix}")
    remuxed(source, tmp_path / f"b{suffix}", later(CLICK_S / 2, hole_s))
    (_, whole), (_, holed) = heard(source), heard(tmp_path / f"b{suffix}")
    click = [int(np.abs(pcm).argmax()) / RATE for pcm in (whole, holed)]
    assert click[1] - click[0] == pytest.approx(hole_s, abs=0.0015)
    assert holed.shape[1] - whole.shape[1] == pytest.approx(hole_s * RATE, abs=80)


def test_packets_that_repeat_a_moment_are_heard_once(tmp_path):
    source = Recipe(sound="aac").write(tmp_path / "a.ts")

    def overlapping(packet):
        if packet.stream.type != "audio" or packet.pts * packet.time_base < CLICK_S / 2:
            return packet
        packet.pts = packet.dts = packet.pts - 9600 - 1350  # five packets, and 15 ms more
        return packet if packet.pts * packet.time_base >= CLICK_S / 2 - 0.02 else None

    remuxed(source, tmp_path / "b.ts", overlapping)
    (_, whole), (_, shorter) = heard(source), heard(tmp_path / "b.ts")
    with av.open(str(tmp_path / "b.ts")) as container:
        packets = sum(bool(packet.size) for packet in container.demux(audio=0))
    assert shorter.shape[1] < whole.shape[1]
    assert 1024 * packets - shorter.shape[1] == pytest.approx(0.015 * RATE, abs=960)


@pytest.mark.parametrize("hours", [10, 29, 10**6])
def test_memory_does_not_grow_with_a_timestamp(tmp_path, hours):
    source = Recipe(sound="pcm_s16le").write(tmp_path / "a.nut")
    remuxed(source, tmp_path / "b.nut", later(CLICK_S / 2, 3600 * hours))
    blocks = stream_sound(str(tmp_path / "b.nut")).blocks
    assert all(block.shape[1] <= RATE for block in islice(blocks, 200))
    given = read_sound(str(tmp_path / "b.nut"), 16_000, 1, most=32_000)
    assert given.pcm.shape[1] <= 32_000
    assert given.num_samples == pytest.approx(16_000 * (3600 * hours if hours < 30 else 0), abs=16_000)


@pytest.mark.parametrize(("layout", "codec", "suffix"), [
    ("7.1", "aac", "mp4"), ("7.1", "flac", "mkv"), ("7.1", "libopus", "mkv"), ("7.1", "pcm_s16le", "wav"),
    ("5.1", "ac3", "mkv"), ("16", "pcm_s16le", "mkv"),
])  # fmt: skip
def test_any_number_of_channels_is_read(tmp_path, layout, codec, suffix):
    layout = "hexadecagonal" if layout == "16" else layout
    channels = av.AudioLayout(layout).nb_channels
    pcm = np.outer(np.ones(channels), np.sin(np.arange(RATE // 4) / 20)) / 2
    sound, back = heard(write(tmp_path / f"a.{suffix}", pcm, layout, codec))
    assert (back.shape[0], sound.rate) == (channels, RATE)
    assert back.shape[1] == pytest.approx(RATE // 4, abs=1600)


def test_surround_sound_is_mixed_as_players_mix_it(tmp_path):
    """Of 5.1, the centre is 3 dB below the front, and the low-frequency channel is left out."""
    levels = {}
    for channel in range(6):
        pcm = np.zeros((6, RATE // 8))
        pcm[channel] = 0.5
        mixed = read_sound(write(tmp_path / f"{channel}.wav", pcm, "5.1"), RATE, 2, most=RATE).pcm
        levels[channel] = mixed[:, 2000].tolist()
    front = levels[0][0]
    assert levels[0] == [pytest.approx(front), pytest.approx(0)]
    assert levels[2] == [pytest.approx(front * 0.5**0.5, rel=1e-3)] * 2
    assert levels[3] == [0, 0]
    assert levels[4] == [pytest.approx(front * 0.5**0.5, rel=1e-3), pytest.approx(0)]


def test_channels_that_change_midway_are_converted_to_the_first(tmp_path):
    parts = []
    for name, layout, channels in (("a", "stereo", 2), ("b", "5.1", 6)):
        write(tmp_path / f"{name}.ts", np.ones((channels, RATE // 2)) / 4, layout, "aac")
        parts.append((tmp_path / f"{name}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    sound, pcm = heard(tmp_path / "both.ts")
    assert (sound.rate, len(pcm)) == (RATE, 2)
    assert pcm.shape[1] == pytest.approx(RATE, abs=6000)
    assert np.abs(pcm[:, -8000:-4000]).mean() > 0.05


@pytest.mark.parametrize("codec", ["libmp3lame", "libopus", "aac"])
def test_the_priming_of_an_encoder_is_not_heard(tmp_path, codec):
    pcm = np.zeros((1, RATE // 2))
    pcm[:, 9600:9624] = 1
    suffix = {"libmp3lame": "mp3", "libopus": "opus", "aac": "m4a"}[codec]
    given = read_sound(write(tmp_path / f"a.{suffix}", pcm, "mono", codec), RATE, 1, most=RATE)
    loud = given.pcm[0].abs()
    assert int((loud > 0.4 * loud.max()).int().argmax()) == pytest.approx(9600, abs=48)


def test_a_time_hours_behind_the_films_end_is_not_believed(tmp_path, monkeypatch):
    def moved(packet):
        if packet.stream.type == "audio" and packet.pts * packet.time_base > 0.4:
            packet.pts = packet.dts = packet.pts + round(5000 / packet.time_base)
        return packet

    Recipe().write(tmp_path / "a.mkv")
    remuxed(tmp_path / "a.mkv", tmp_path / "b.mkv", moved)
    monkeypatch.setattr("longtake.pipeline.media.sound._end_s", lambda _: Fraction(1))
    _, pcm = heard(tmp_path / "b.mkv")
    assert pcm.shape[1] == pytest.approx(0.48 * RATE, abs=2100)
