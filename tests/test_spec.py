import contextlib
import re
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st
from pydantic import BaseModel, ValidationError

from longtake.pipeline.clock import MediaClock, plan_scenes
from longtake.pipeline.conditioning.encoder import digests
from longtake.pipeline.durations import parse_duration, parse_fps
from longtake.pipeline.errors import SpecError
from longtake.pipeline.spec import STORYBOARD_TEMPLATE, Storyboard, load_storyboard, parse_storyboard

DEMO = Path(__file__).parent.parent / "examples" / "demo.yaml"
SCENES = "scenes: [{prompt: a red circle, duration: 2s}, {prompt: a blue square, duration: 36f, transition: cut}]\n"


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_storyboard(text, overrides, source="film.yaml")
    lines = str(caught.value).split("\n")
    assert all(line.startswith("film.yaml") for line in lines)
    return [line.removeprefix("film.yaml: ") for line in lines]


# ------------------------------------------------------------------ what is accepted


def test_only_the_scenes_are_needed():
    storyboard = parse_storyboard(SCENES)
    assert storyboard.model == "sounding-shapes"
    assert (storyboard.video.width, storyboard.video.fps, storyboard.audio.sample_rate) == (64, 16, 16_000)
    assert (storyboard.sampling.steps, storyboard.sampling.schedule, storyboard.output.film) == (
        12,
        "shifted",
        "film.mp4",
    )


def test_the_demo_is_a_storyboard_of_32_seconds_with_one_continue_and_one_cut():
    storyboard = load_storyboard(str(DEMO))
    assert sum(storyboard.durations_s()) == 32
    assert [scene.transition for scene in storyboard.scenes[1:]] == ["continue", "cut"]
    assert storyboard.cuts() == (True, False, True)
    for scene in storyboard.scenes:
        assert re.fullmatch(r"a \w+ \w+ \w+( \w+)* on a \w+ background", scene.prompt)


def test_a_storyboard_lays_itself_on_the_clock():
    storyboard = load_storyboard(str(DEMO))
    clock = MediaClock(storyboard.video.fps, storyboard.audio.sample_rate, 4, 500)
    assert plan_scenes(clock, storyboard.durations_s(), storyboard.cuts())[-1].frames == range(22 * 16, 32 * 16)


def test_the_template_is_valid_and_shows_every_key_with_its_default():
    template = yaml.safe_load(STORYBOARD_TEMPLATE)
    scenes = template.pop("scenes")

    def defaults(spec: type[BaseModel], shown: dict) -> None:
        assert set(shown) == set(spec.model_fields) - {"scenes"}
        for key, value in shown.items():
            default = spec.model_fields[key].default
            defaults(type(default), value) if isinstance(value, dict) else None
            assert isinstance(value, dict) or value == (list(default) if default == () else default), key

    defaults(Storyboard, template)
    assert {key for scene in scenes for key in scene} == {"prompt", "duration", "transition"}
    assert {"continue", "cut"} <= {scene.get("transition") for scene in scenes}
    parse_storyboard(STORYBOARD_TEMPLATE)


def test_a_dumped_storyboard_reads_back_equal():
    storyboard = parse_storyboard(SCENES, ["video.fps=24000/1001", "sampling={steps: 2, schedule: [1, 0.5]}"])
    assert parse_storyboard(yaml.safe_dump(storyboard.model_dump(mode="json"))) == storyboard


def test_a_storyboard_is_frozen_all_the_way_down():
    storyboard = parse_storyboard(SCENES)
    with pytest.raises(ValidationError, match="frozen"):
        storyboard.video.width = 128
    assert isinstance(storyboard.scenes, tuple)
    hash(storyboard)


def test_storyboards_are_read_from_any_fsspec_url():
    import fsspec

    with fsspec.open("memory://films/a.yaml", "w") as file:
        file.write(SCENES)
    assert load_storyboard("memory://films/a.yaml") == parse_storyboard(SCENES)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    (tmp_path / "film.yaml").write_text("\ufeff" + SCENES, encoding="utf-8")
    assert load_storyboard(str(tmp_path / "film.yaml")) == parse_storyboard(SCENES)


# ------------------------------------------------------------------ durations and rates


@given(
    h=st.none() | st.decimals(0, 99, places=3),
    m=st.none() | st.integers(0, 10**6),
    s=st.none() | st.decimals(0, 10**6, places=6),
    ms=st.none() | st.integers(0, 10**6),
    f=st.none() | st.integers(0, 10**6),
)
def test_any_duration_is_parsed_exactly(h, m, s, ms, f):
    parts = {"h": h, "m": m, "s": s, "ms": ms, "f": f}
    text = "".join(
        f"{number:f}{unit}" if unit in "hs" else f"{number}{unit}"
        for unit, number in parts.items()
        if number is not None
    )
    if not text:
        with pytest.raises(SpecError):
            parse_duration(text)
        return
    assert parse_duration(text) == (
        Fraction(h or 0) * 3600 + (m or 0) * 60 + Fraction(s or 0) + Fraction(ms or 0, 1000),
        f or 0,
    )


@pytest.mark.parametrize(
    ("text", "seconds", "frames"),
    [
        ("12s", 12, 0),
        ("1.5s", Fraction(3, 2), 0),
        ("0.1s", Fraction(1, 10), 0),
        ("48f", 0, 48),
        ("2m", 120, 0),
        ("1m30s", 90, 0),
        ("1m 30s", 90, 0),
        ("2h", 7200, 0),
        ("500ms", Fraction(1, 2), 0),
        ("1s12f", 1, 12),
    ],
)
def test_durations_read_as_people_write_them(text, seconds, frames):
    assert parse_duration(text) == (seconds, frames)


@pytest.mark.parametrize(
    "text", ["", "s", "12", "-1s", "1,5s", "30s1m", "1.5f", "1e3s", "12sec", "1s1s", "\u0661s", "9" * 5000 + "s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(SpecError, match="write a number with its unit"):
        parse_duration(text)


def test_frames_are_counted_at_the_storyboards_rate():
    storyboard = parse_storyboard(SCENES, ["video.fps=23.976", "scenes.1.duration=1s48f"])
    assert storyboard.durations_s() == (2, 1 + Fraction(48 * 1001, 24000))


@pytest.mark.parametrize(
    ("rate", "exact"),
    [
        (16, 16),
        ("24000/1001", Fraction(24000, 1001)),
        (23.976, Fraction(24000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)),
        (12.5, Fraction(25, 2)),
        (24.0, 24),
        ("50/2", 25),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
    ],
)
def test_frame_rates_are_exact(rate, exact):
    assert parse_fps(rate) == exact


@pytest.mark.parametrize(
    "rate", [0, -16, 241, "0/1", "16/0", "fast", "", True, None, [16], float("nan"), float("inf"), "1e9999999", "0.5"]
)
def test_impossible_frame_rates_are_refused(rate):
    with pytest.raises(SpecError):
        parse_fps(rate)


def test_a_rate_too_fine_for_a_container_names_the_next_best():
    with pytest.raises(SpecError, match=r"use 16$"):
        parse_fps("16.000000000001")


# ------------------------------------------------------------------ what is refused, and how


@pytest.mark.parametrize(
    ("storyboard", "key", "value", "fix"),
    [
        ({"sede": 3}, "sede", "3", "did you mean seed?"),
        ({"steps": 4}, "steps", "4", "did you mean sampling.steps?"),
        ({"zzz": 4}, "zzz", "4", "known here: title, model, seed"),
        ({"video": {"hight": 64}}, "video.hight", "64", "did you mean height?"),
        (
            {"scenes": [{"prompt": "a", "durations": "1s", "duration": "1s"}]},
            "scenes[0].durations",
            "'1s'",
            "duration?",
        ),
        ({"video": {"width": 63}}, "video.width", "63", "an even number from 2 to 8192"),
        ({"video": {"height": 0}}, "video.height", "0", "an even number from 2"),
        ({"video": {"width": 64.0}}, "video.width", "64.0", "an even number"),
        ({"video": {"width": "64"}}, "video.width", "'64'", "an even number"),
        ({"video": {"width": 10**6}}, "video.width", "1000000", "8192"),
        ({"video": {"fps": "fast"}}, "video.fps", "'fast'", "write a rate"),
        ({"video": {"fps": 1000}}, "video.fps", "1000", "1 to 240"),
        ({"video": None}, "video", "empty", "a mapping of keys"),
        ({"audio": {"sample_rate": 0}}, "audio.sample_rate", "0", "from 8000 to 192000"),
        ({"seed": -1}, "seed", "-1", "from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed", str(2**63), "from 0 to 9223372036854775807"),
        ({"seed": True}, "seed", "True", "a whole number"),
        ({"title": 5}, "title", "5", "in quotes"),
        ({"scenes": []}, "scenes", "[]", "at least one scene"),
        ({"scenes": {}}, "scenes", "{}", "use a list"),
        ({"scenes": None}, "scenes", "empty", "use a list"),
        ({"scenes": ["a red circle"]}, "scenes[0]", "'a red circle'", "a mapping of keys"),
        ({"scenes": [{"prompt": " ", "duration": "1s"}]}, "scenes[0].prompt", "' '", "at least one word"),
        ({"scenes": [{"prompt": "a", "duration": "0s"}]}, "scenes[0].duration", "'0s'", "at least 1f"),
        ({"scenes": [{"prompt": "a", "duration": "0f"}]}, "scenes[0].duration", "'0f'", "at least 1f"),
        ({"scenes": [{"prompt": "a", "duration": "10ms"}]}, "scenes[0].duration", "'10ms'", "at least 1f"),
        ({"scenes": [{"prompt": "a", "duration": 12}]}, "scenes[0].duration", "12", "12s for seconds or 12f"),
        ({"scenes": [{"prompt": "a", "duration": "soon"}]}, "scenes[0].duration", "'soon'", "with its unit"),
        ({"scenes": [{"prompt": "a", "duration": "101h"}]}, "scenes[0].duration", "'101h'", "100h"),
        ({"scenes": [{"prompt": "a", "duration": "60h"}] * 2}, "scenes", "[", "100h"),
        ({"scenes": [{"prompt": "a", "duration": float("nan")}]}, "scenes[0].duration", "nan", "write a number"),
        (
            {"scenes": [{"prompt": "a", "duration": "1s", "transition": "fade"}]},
            "scenes[0].transition",
            "'fade'",
            "'cut'",
        ),
        ({"sampling": {"steps": 0}}, "sampling.steps", "0", "from 1 to 1000"),
        ({"sampling": {"guidance": -1}}, "sampling.guidance", "-1", "from 0 to 100"),
        ({"sampling": {"guidance": float("nan")}}, "sampling.guidance", "nan", "from 0 to 100"),
        ({"sampling": {"guidance": True}}, "sampling.guidance", "True", "a number"),
        ({"sampling": {"shift": 0}}, "sampling.shift", "0", "from 0.01 to 100"),
        ({"sampling": {"solver": "heun"}}, "sampling.solver", "'heun'", "'euler', 'renoise' or 'unipc'"),
        (
            {"sampling": {"schedule": "cosine"}},
            "sampling.schedule",
            "'cosine'",
            "shifted, linear, dynamic, full, fixed, or a list",
        ),
        ({"sampling": {"schedule": []}}, "sampling.schedule", "[]", "start at 1"),
        ({"sampling": {"steps": 2, "schedule": [0.9, 0.5]}}, "sampling.schedule", "[0.9, 0.5]", "start at 1"),
        ({"sampling": {"steps": 2, "schedule": [1, 1]}}, "sampling.schedule", "[1, 1]", "fall at every step"),
        ({"sampling": {"steps": 2, "schedule": [1, 0]}}, "sampling.schedule", "[1, 0]", "stay above 0"),
        ({"sampling": {"steps": 3, "schedule": [1, float("nan"), 0.5]}}, "sampling.schedule", "[1, nan", "fall"),
        (
            {"sampling": {"steps": 2, "schedule": [1, 0.5, 0.2]}},
            "sampling.schedule",
            "[1, 0.5",
            "set sampling.steps to 3",
        ),
        ({"output": {"film": "../film.mp4"}}, "output.film", "'../film.mp4'", "a relative path inside it"),
        ({"output": {"film": "a/../../film.mp4"}}, "output.film", "'a/../../film.mp4'", "a relative path"),
        ({"output": {"film": "/tmp/film.mp4"}}, "output.film", "'/tmp/film.mp4'", "a relative path"),
        ({"output": {"film": "s3://bucket/film.mp4"}}, "output.film", "'s3://bucket/film.mp4'", "a relative path"),
        ({"output": {"film": "~/film.mp4"}}, "output.film", "'~/film.mp4'", "a relative path"),
        ({"output": {"film": "..\\film.mp4"}}, "output.film", "'..\\\\film.mp4'", "a relative path"),
        ({"output": {"film": "film.mkv"}}, "output.film", "'film.mkv'", "use film.mp4"),
        ({"output": {"film": "."}}, "output.film", "'.'", "use film.mp4"),
        ({"output": {"container": "mkv"}}, "output.container", "'mkv'", "use 'mp4'"),
        ({"output": {"quality": 52}}, "output.quality", "52", "from 0 to 51"),
        ({"output": {"hls": "maybe"}}, "output.hls", "'maybe'", "true or false"),
    ],
)
def test_a_mistake_names_its_key_its_value_and_the_fix(storyboard, key, value, fix):
    (line,) = mistakes(yaml.safe_dump(yaml.safe_load(SCENES) | storyboard))
    assert line.startswith((f"{key} is {value}", f"{key} ({value}) is not"))
    assert fix in line.removeprefix(key)


def test_all_mistakes_of_a_file_are_listed_at_once():
    lines = mistakes(
        "sede: 3\nvideo: {width: 63, height: 64, height: 64}\nscenes: [{prompt: a, duration: 0s}, {duration: 1s}]\n",
        "output.film=/film.mp4",
        "nonsense",
        "scenes[7].prompt=a",
    )
    keys = [line.split(" ")[0] for line in lines]
    assert keys == [
        "video.height",
        "--set",
        "--set",
        "video.width",
        "scenes[0].duration",
        "scenes[1].prompt",
        "output.film",
        "sede",
    ]


def test_a_key_given_twice_is_a_mistake_at_any_depth():
    text = SCENES + "title: a\ntitle: b\nvideo:\n  width: 64\n  width: 128\n"
    assert mistakes(text) == [
        "title is given twice, in lines 2 and 3; keep one",
        "video.width is given twice, in lines 5 and 6; keep one",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "film", "3"])
def test_a_file_without_keys_is_a_mistake(text):
    assert "holds no keys" in mistakes(text)[0]


@pytest.mark.parametrize(
    "text", ["a: [", "a:\n\tb: 1", "? [a]\n: b", "a: 1\n---\nb: 2", "title: 2024-99-99", "a: \x00", "a: *b"]
)
def test_broken_yaml_is_a_mistake(text):
    assert "is not valid YAML" in mistakes(text)[0]


def test_broken_yaml_names_its_line():
    assert "line 2, column 1" in mistakes("a:\n\tb: 1")[0]


def test_a_mapping_that_holds_itself_is_a_mistake():
    assert "a (" in mistakes(SCENES + "a: &a {b: *a}")[0]


def test_keys_that_are_no_words_are_mistakes():
    assert mistakes(SCENES + "1: 2") == ["1 is not a key; keys are words"]


def test_missing_keys_are_named():
    assert mistakes("title: a") == ["scenes is missing; add it"]
    assert mistakes("scenes: [{prompt: a}]") == ["scenes[0].duration is missing; add it"]


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path):
    with pytest.raises(SpecError, match=r"film\.yaml does not exist; `longtake init"):
        load_storyboard(str(tmp_path / "film.yaml"))


@pytest.mark.parametrize("url", ["", "nosuch://film.yaml"])
def test_an_unreadable_file_is_a_mistake(url):
    with pytest.raises(SpecError, match="cannot be read"):
        load_storyboard(url)


def test_a_file_system_that_fails_in_its_own_way_is_a_mistake(monkeypatch):
    def refuse(*_, **__):
        raise Unauthorized("no credentials")

    monkeypatch.setattr("longtake.pipeline.yaml_spec.fsspec.open", refuse)
    with pytest.raises(SpecError, match=r"film\.yaml cannot be read: no credentials"):
        load_storyboard("s3://films/film.yaml")
    monkeypatch.setattr("longtake.pipeline.media.source.located", refuse)
    with pytest.raises(SpecError, match=r"continue_from is .*one\.mp4'; it cannot be used: no credentials"):
        digests(parse_storyboard(SCENES + "continue_from: s3://films/one.mp4"))


class Unauthorized(Exception):  # noqa: N818 (as the clients of object stores call theirs)
    """An error that is no `OSError`."""


def test_a_file_that_is_no_text_is_a_mistake(tmp_path: Path):
    (tmp_path / "film.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot be read"):
        load_storyboard(str(tmp_path / "film.yaml"))


KEYS = st.sampled_from(
    ["title", "video", "fps", "scenes", "prompt", "duration", "sampling", "schedule", "output", "film"]
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1s", "../a", "shifted"])
)


@given(
    st.dictionaries(
        KEYS, st.recursive(LEAVES, lambda deeper: st.lists(deeper) | st.dictionaries(KEYS, deeper), max_leaves=8)
    )
)
def test_a_file_of_any_content_raises_nothing_but_a_spec_error(storyboard):
    with contextlib.suppress(SpecError):
        parse_storyboard(yaml.safe_dump(storyboard))


# ------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("sampling.steps=4", lambda s: s.sampling.steps, 4),
        ("title=Two words", lambda s: s.title, "Two words"),
        ("title=a=b", lambda s: s.title, "a=b"),
        ("output.hls=false", lambda s: s.output.hls, False),
        ("scenes.0.duration=5s", lambda s: s.scenes[0].duration, "5s"),
        ("scenes[1].duration=5s", lambda s: s.scenes[1].duration, "5s"),
        ("sampling={steps: 2, schedule: [1.0, 0.5]}", lambda s: s.sampling.schedule, (1.0, 0.5)),
        ("video.fps=24000/1001", lambda s: s.video.fps, Fraction(24000, 1001)),
    ],
)
def test_an_override_sets_one_key(override, read, value):
    assert read(parse_storyboard(SCENES, [override])) == value


def test_the_last_override_wins_and_later_keys_build_on_earlier_ones():
    storyboard = parse_storyboard(SCENES + "video:\n", ["video.width=32", "video.height=32", "video.width=128"])
    assert (storyboard.video.width, storyboard.video.height) == (128, 32)


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("steps", "write key=value"),
        ("=4", "write key=value"),
        ("title=[", "not valid YAML"),
        ("scenes.2.duration=5s", "use 0 to 1"),
        ("scenes.first.duration=5s", "use 0 to 1"),
        ("scenes[0].prompt.x=5", "nothing below 'a red circle'"),
        ("scenes[0].duraton=5s", "did you mean duration?"),
        ("video.width=63", "use an even number"),
    ],
)
def test_a_wrong_override_says_how_to_fix_it(override, fix):
    (line,) = mistakes(SCENES, override)
    assert fix in line
