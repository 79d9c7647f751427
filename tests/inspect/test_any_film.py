"""Any film is measured: with B-frames, uneven times, many channels or none; very short, black or frozen."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from longtake.jobs.cli import main
from longtake.pipeline.errors import MediaError
from longtake.pipeline.inspect.page import to_html
from longtake.pipeline.inspect.report import inspect_film
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.inspect.verdicts import Scale
from tests.inspect.foreign_films import FPS, RATE, REAL, moving_waves, real_frames, tones, write_film


def inspected(url):
    return inspect_film(open_subject(str(url)))


def graded(inspection):
    return {verdict.key: verdict.grade for verdict in inspection.verdicts}


def loudness_by_ffmpeg(url):
    """Integrated loudness of FFmpeg's filter over its own decoder; None for a film without sound."""
    with av.open(str(url)) as container:
        if not container.streams.audio:
            return None
        graph, figures = Graph(), {}
        source = graph.add_abuffer(template=container.streams.audio[0])
        meter = graph.add("ebur128", "metadata=1:framelog=quiet")
        source.link_to(meter)
        meter.link_to(graph.add("abuffersink"))
        graph.configure()
        for frame in [*container.decode(audio=0), None]:
            graph.push(frame)
            try:
                while True:
                    figures |= graph.pull().metadata
            except (BlockingIOError, EOFError):
                continue
        return float(figures["lavfi.r128.I"])


def frames_by_ffmpeg(url):
    """The number of pictures, and the time from the first to the last."""
    with av.open(str(url)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    return len(times), max(times) - min(times)


def written(path, kind):
    """A film of one of the kinds that `inspect` once refused or judged wrongly."""
    frames = moving_waves()
    match kind:
        case "B-frames":
            return write_film(path / "film.mp4", frames, tones(), bframes=3)
        case "B-frames in Matroska":
            return write_film(path / "film.mkv", frames, tones(), bframes=2)
        case "B-frames in a transport stream":
            return write_film(path / "film.ts", frames, tones(), bframes=2)
        case "no sound":
            return write_film(path / "film.mp4", frames)
        case "VP9 and Opus":
            return write_film(path / "film.webm", frames, tones(), codec="libvpx-vp9", sound_codec="libopus")
        case layout:
            return write_film(path / "film.mov", frames, tones(layout), layout=layout, sound_codec="pcm_s16le")


KINDS = ["B-frames", "B-frames in Matroska", "B-frames in a transport stream", "no sound", "VP9 and Opus"]


@pytest.mark.parametrize("kind", [*KINDS, "mono", "2.1", "quad", "5.0", "5.1", "6.1", "7.1"])
def test_our_figures_are_ffmpegs(tmp_path, kind):
    url = written(tmp_path, kind)
    film = inspected(url)
    count, span_s = frames_by_ffmpeg(url)
    times_s = film.traces.video.pictures.times_s
    assert film.container.frames == count
    assert times_s[-1] - times_s[0] == pytest.approx(span_s, abs=1e-6)
    assert film.container.fps == pytest.approx(FPS)
    assert film.container.monotone
    assert film.container.gaps == 0
    wanted = loudness_by_ffmpeg(url)
    if wanted is None:
        assert film.sound is None
    else:
        assert film.sound.integrated_lufs == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("url", REAL, ids=lambda path: path.stem)
def test_real_clips_are_measured(url):
    film = inspected(url)
    assert (film.container.frames, film.container.gaps) == (frames_by_ffmpeg(url)[0], 0)
    wanted = loudness_by_ffmpeg(url)
    if wanted is not None:
        assert film.sound.integrated_lufs == pytest.approx(wanted, abs=0.1)
    assert len(film.subject.scenes) == {"bikes": 6}.get(url.stem, 1)
    assert {grade for key, grade in graded(film).items() if key in ("black", "frozen", "burnt")} == {"good"}


def test_uneven_times_are_no_gaps(tmp_path):
    ticks = np.cumsum(np.random.default_rng(1).integers(1, 4, 72)).tolist()
    film = inspected(write_film(tmp_path / "film.mkv", moving_waves(72), ticks=ticks))
    assert not film.container.steady
    assert film.container.fps == pytest.approx(71 / ((ticks[-1] - ticks[0]) / FPS), rel=0.01)
    assert graded(film)["gaps"] == "told"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", [None, "mono"])
def test_a_film_of_a_few_frames_is_measured(tmp_path, count, layout):
    sound = None if layout is None else tones(layout, seconds=count / FPS)
    film = inspected(write_film(tmp_path / "film.mp4", moving_waves(count), sound, layout=layout))
    assert film.container.frames == count
    page = to_html(film)
    assert page.count("<svg") == (0 if count == 1 else 2) + (0 if layout is None else 2)


def test_a_silent_film_has_no_empty_axes(tmp_path):
    page = to_html(inspected(write_film(tmp_path / "film.mp4", moving_waves())))
    assert "LUFS, 400 ms" not in page
    assert page.count("<svg") == 2


def test_a_file_without_a_picture_is_refused_by_a_sentence(tmp_path):
    url = write_film(tmp_path / "sound.mp4", None, tones())
    with pytest.raises(MediaError, match="holds no picture: no moving picture, only audio"):
        inspected(url)


def test_small_and_odd_sizes_are_measured(tmp_path):
    for height, width in ((2, 2), (6, 300), (33, 17)):
        frames = moving_waves(12, height, width)
        film = inspected(write_film(tmp_path / f"{width}.mkv", frames, codec="ffv1", pix_fmt="bgr0"))
        assert film.container.frames == 12
        assert np.isfinite(film.traces.video.pictures.sharpness).all()


def faulty(kind):
    frames, sound = moving_waves(96), tones(seconds=4)
    if kind == "black":
        frames[30:] = 0
    elif kind == "frozen":
        frames[30:] = frames[30]
    elif kind == "burnt":
        frames = np.where(frames > 127, 255, 0).astype(np.uint8)
        frames[..., 2] = 255 - frames[..., 0]
    elif kind == "silent":
        sound[:] = 0
    return frames, sound


@pytest.mark.parametrize("kind", ["nothing", "black", "frozen", "burnt", "silent"])
def test_a_film_that_shows_or_sounds_nothing_is_detected(tmp_path, kind):
    film = inspected(write_film(tmp_path / "film.mp4", *faulty(kind)))
    grades = graded(film)
    bad = {key for key in ("black", "frozen", "burnt", "silent") if grades[key] == "bad"}
    assert bad == {"black", "frozen"} if kind == "black" else bad == {kind} - {"nothing"}


def test_cuts_are_found_and_drift_is_measured_per_shot(tmp_path):
    steady, dim = real_frames("carphone_pristine"), real_frames("bigbuckbunny") // 3
    fading = 128 + (steady[:, ::-1] - 128.0) * np.linspace(1, 0.4, 60)[:, None, None, None]
    frames = np.concatenate([steady, dim, fading.astype(np.uint8)])
    film = inspected(write_film(tmp_path / "film.mp4", frames, fps=12))
    assert [scene.frames.start for scene in film.subject.scenes] == [0, 60, 120]
    assert [shot["start"] for shot in film.as_dict()["shots"]] == [0, 60, 120]
    drifts = [drift.contrast for drift in film.drift.scenes]
    assert drifts[2] < -0.25 < min(drifts[:2])
    assert "<h2>Shots" in to_html(film)


def test_the_page_plays_the_film(tmp_path, monkeypatch):
    url = write_film(tmp_path / "films" / "a 'b'.mp4" if (tmp_path / "films").mkdir() is None else "", moving_waves())
    film = inspected(url)
    assert 'src="data:video/mp4;base64,' in to_html(film)
    monkeypatch.setattr("longtake.pipeline.inspect.page._MOST_INLINE", 10)
    assert 'src="../films/a%20%27b%27.mp4"' in to_html(film, page=tmp_path / "pages" / "report.html")
    assert "too far away" in to_html(film)


@pytest.mark.parametrize(("fail_on", "code"), [(None, 0), ("bad", 1), ("look", 1)])
def test_fail_on_sets_the_exit_code(tmp_path, capsys, fail_on, code):
    url = write_film(tmp_path / "film.mp4", faulty("black")[0])
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", url, "--json", *(["--fail-on", fail_on] if fail_on else [])])
    assert exit_.value.code == code
    assert json.loads(capsys.readouterr().out)["grade"] == "bad"


def test_a_figure_is_judged_as_it_is_shown():
    least = Scale("f1", "F1", 0.8, 0.5, "", least=True)
    assert [(v.shown, v.grade) for v in map(least.judge, (0.7951, 0.7949, 0.496))] == [
        ("0.80", "good"),
        ("0.79", "look"),
        ("0.50", "look"),
    ]
    percent = Scale("share", "Share", 0.1, 0.2, "", "{:+.1%}", signed=True)
    assert percent.judge(-0.1004).grade == "good"
    assert percent.judge(-0.1006).grade == "look"


def test_loudness_of_surround_sound_is_that_of_the_standard(tmp_path):
    """EBU Tech 3341, case 6: a tone in 5.0, each channel at its own level, is at -23 LUFS."""
    times = np.arange(20 * RATE) / RATE
    levels = [10 ** (level / 20) for level in (-28, -28, -24, -30, -30)]
    sound = np.stack([level * np.sin(2 * np.pi * 1000 * times) for level in levels]).astype(np.float32)
    frames = np.repeat(moving_waves(2), [1, 1], axis=0)
    url = write_film(tmp_path / "film.mov", frames, sound, layout="5.0", sound_codec="pcm_f32le", fps=1)
    assert inspected(url).sound.integrated_lufs == pytest.approx(-23, abs=0.1)
    assert Fraction(1) == open_subject(url).fps
