"""`longtake retake` and `longtake choose`: candidates next to the film, one of which is published without rendering."""

import av
import pytest

STORYBOARD = """
model: tiny
sampling: {steps: 1, guidance: 1}
video: {width: 16, height: 16}
scenes: [{prompt: a red circle bounces fast, duration: 4s}]
"""


@pytest.fixture
def run(command):
    def called(*arguments, check=True):
        return command(*arguments, "--progress", "none", check=check)

    return called


def pictures(film):
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def test_candidates_lie_next_to_the_film_and_any_is_published_without_rendering(run, tmp_path):
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    out, film = tmp_path / "out", tmp_path / "out" / "film.mp4"
    run("render", tmp_path / "film.yaml", "-o", out, "--in-process", "--any-size")
    before = film.read_bytes()
    ask = ("retake", out, "--from", "1s", "--to", "2s", "--candidates", 2, "--in-process")
    answer = run(*ask)
    candidates = [out / "retakes" / "1" / str(number) / "film.mp4" for number in (1, 2)]
    assert all(f"{number}: {path}" in answer.stdout for number, path in enumerate(candidates, 1))
    assert film.read_bytes() == before, "the film stays until one is chosen"
    for candidate in candidates:
        same = [one == other for one, other in zip(pictures(candidate), pictures(film), strict=True)]
        assert all(same[:16])
        assert not any(same[16:20])
        assert all(same[32:])
    assert candidates[0].read_bytes() != candidates[1].read_bytes()
    rendered = (out / "retakes" / "1" / "2" / "events.jsonl").read_text()
    run(*ask)
    assert (out / "retakes" / "1" / "2" / "events.jsonl").read_text() == rendered, "nothing is rendered twice"
    late = run("retake", out, "--from", "3s", "--to", "9s", "--in-process", check=False)
    assert (late.returncode, "the film lasts 4 s" in late.stderr) == (2, True)
    assert [path.name for path in (out / "retakes").iterdir()] == ["1"], "nothing is left of what is refused"
    run("choose", out, 0)
    (out / "retakes" / "2" / "0" / "journal").mkdir(parents=True)
    (out / "retakes" / "2" / "0" / "journal" / "storyboard.json").write_text("{}")
    again = run(*ask[:-1], "--seed", 5, "--in-process")
    assert str(out / "retakes" / "2" / "1") in again.stdout, "one that was killed while it was copied is resumed"
    run("choose", out, 2, "--retake", 1)
    assert film.read_bytes() == candidates[1].read_bytes()
    run("choose", out, 0)
    assert film.read_bytes() == before
    assert "denoise.chunk" not in (out / "events.jsonl").read_text().partition("film.done")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retake", "{out}", "--from", "1s", "--to", "2s"), "holds no take; render one"),
        (("choose", "{out}", "1"), "holds no take; render one"),
    ],
)
def test_without_a_film_both_are_refused(run, tmp_path, arguments, message):
    answer = run(*(each.format(out=tmp_path / "none") for each in arguments), check=False)
    assert answer.returncode == 2
    assert message in answer.stderr
