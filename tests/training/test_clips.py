"""Clips from footage equal the files' content at the right time; mistakes are reported early."""

import json
import re
from fractions import Fraction
from math import tau

import fsspec
import pytest
import torch

from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.training.clips import ClipFolder, ClipFormat
from tests.training.clip_files import write_clip

FORMAT = ClipFormat(Fraction(16), width=32, height=48, sample_rate=16_000)
SOURCE_FPS, SOURCE_RATE, SECONDS = 24, 32_000, 3
TONE_HZ = 90
LEVELS = torch.arange(SOURCE_FPS * SECONDS) * 3 + 20  # every frame of the source has its own grey
HALF_S = Fraction(1, 2)


def greys(count=None, height=32, width=80):
    return LEVELS[:count, None, None, None].expand(-1, height, width, 3).to(torch.uint8).contiguous()


def captions(folder, *rows):
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One clip with sound whose channels differ only in level, and one that is silent and larger."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    tone = 0.5 * torch.sin(tau * TONE_HZ * torch.arange(SECONDS * SOURCE_RATE) / SOURCE_RATE)
    write_clip(folder / "tone.mp4", greys(), SOURCE_FPS, torch.stack((1.5 * tone, 0.5 * tone)), SOURCE_RATE)
    write_clip(folder / "more" / "still.mp4", greys(1, 96, 64).repeat(36, 1, 1, 1), SOURCE_FPS)
    captions(folder, {"file": "tone.mp4", "prompt": "a tone"}, {"file": "more/still.mp4", "prompt": " stillness "})
    return folder


def test_pictures_and_sound_are_those_of_the_same_moment(folder):
    clips = ClipFolder(str(folder), FORMAT)
    moments = [clips._moment((7, 3), number, HALF_S) for number in range(12)]
    drawn = clips.draw((7, 3), range(12), HALF_S)
    assert drawn.frames.shape == (12, 8, 3, 48, 32)
    assert drawn.sound.shape == (12, 8000)
    assert set(drawn.prompts) == {"a tone", "stillness"}
    for (footage, start_s), frames, sound in zip(moments, drawn.frames, drawn.sound, strict=True):
        assert 0 <= start_s <= footage.stop_s - HALF_S
        if footage.prompt == "stillness":
            assert not sound.any()
            continue
        middles_s = float(start_s) + (torch.arange(8) + 0.5) / 16
        grey = ((frames.mean(dim=(1, 2, 3)) + 1) * 127.5 - 20) / 3
        torch.testing.assert_close(grey, (middles_s * SOURCE_FPS).floor(), atol=0.5, rtol=0)
        times_s = float(start_s) + torch.arange(8000) / 16_000
        torch.testing.assert_close(sound, 0.5 * torch.sin(tau * TONE_HZ * times_s), atol=0.04, rtol=0)
    torch.testing.assert_close(clips.sound((7, 3), range(12), HALF_S), drawn.sound, atol=0, rtol=0)
    assert len({start_s for _, start_s in moments}) == 12


def test_clips_depend_only_on_key_and_number(folder):
    first, second = (ClipFolder(str(folder), FORMAT) for _ in range(2))
    four, two = first.draw((0, 5), range(4), HALF_S), second.draw((0, 5), range(2, 4), HALF_S)
    assert torch.equal(four.frames[2:], two.frames)
    assert torch.equal(four.sound[2:], two.sound)
    assert four.prompts[2:] == two.prompts
    assert not torch.equal(four.frames, second.draw((0, 6), range(4), HALF_S).frames)


def test_near_marks_moving_pixels(tmp_path):
    frames = torch.full((36, 48, 32, 3), 20, dtype=torch.uint8)
    frames[12:, :8] = 220  # a bar at the top appears after half a second
    write_clip(tmp_path / "bar.mp4", frames, 24)
    captions(tmp_path, {"file": "bar.mp4", "prompt": "a bar appears"})
    (near,) = ClipFolder(str(tmp_path), FORMAT).draw((0, 0), [0], Fraction(3, 2)).near
    assert near.shape == (24, 48, 32)
    assert near.nonzero()[:, 0].unique().tolist() == [7, 8]
    assert near[7:9, :7].all()
    assert not near[:, 12:].any()


def test_captions_may_be_csv_and_clips_may_be_remote(folder):
    remote = fsspec.filesystem("memory")
    remote.pipe("/clips/captions.csv", b'file,prompt\ntone.mp4,"a tone, twice"\n')
    remote.pipe("/clips/tone.mp4", (folder / "tone.mp4").read_bytes())
    drawn = ClipFolder("memory://clips/", FORMAT).draw((0, 0), range(2), HALF_S)
    assert drawn.prompts == ("a tone, twice",) * 2
    assert drawn.sound.abs().amax() == pytest.approx(0.5, abs=0.05)


def test_missing_and_malformed_captions_are_reported(tmp_path):
    with pytest.raises(SpecError, match=r"has neither captions\.jsonl nor captions\.csv: write one"):
        ClipFolder(str(tmp_path), FORMAT)
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4"}\n\nnonsense\n{"file": "../b.mp4", "prompt": "b"}\n')
    with pytest.raises(SpecError) as caught:
        ClipFolder(str(tmp_path), FORMAT)
    lines = str(caught.value).splitlines()
    for line, part in zip(
        lines, ('line 1 needs "file" and "prompt"', "line 3 needs", "line 4 names ../b"), strict=True
    ):
        assert part in line
    (tmp_path / "captions.jsonl").write_text("")
    with pytest.raises(SpecError, match="lists no clips"):
        ClipFolder(str(tmp_path), FORMAT)
    with pytest.raises(SpecError, match="data is nowhere://clips; it cannot be opened"):
        ClipFolder("nowhere://clips", FORMAT)


def test_files_that_are_missing_unreadable_damaged_or_too_short_are_named(folder, tmp_path):
    captions(tmp_path, {"file": "a.mp4", "prompt": "a"})
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be read: .*; does it exist\?"):
        ClipFolder(str(tmp_path), FORMAT)
    (tmp_path / "a.mp4").write_bytes(b"nonsense" * 99)
    with pytest.raises(MediaError, match=r"reading .*/a\.mp4: "):
        ClipFolder(str(tmp_path), FORMAT)
    whole = (folder / "tone.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(MediaError, match=re.escape(f"{tmp_path}/a.mp4")):
        ClipFolder(str(tmp_path), FORMAT).draw((0, 0), range(9), Fraction(2))
    with pytest.raises(
        MediaError, match=r"1 of 2 clips .* shorter than the 2 s .*: more/still\.mp4 \(1\.5 s\); remove"
    ):
        ClipFolder(str(folder), FORMAT).draw((0, 0), range(2), Fraction(2))
