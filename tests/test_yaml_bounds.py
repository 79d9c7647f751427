"""Texts that are small and stand for a lot."""

import json
from time import monotonic

import pytest

from longtake.jobs.manifest_rows import read_rows
from longtake.jobs.submit.parcel import kind_of
from longtake.pipeline import yaml_spec
from longtake.pipeline.errors import SpecError
from longtake.pipeline.spec import load_storyboard, parse_storyboard

LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)
DEEP = "scenes: " + "[" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 5,000,000 values"),
        (DEEP, "nested"),
        ("a: " + "{a: " * 60 + "1" + "}" * 60, "40 levels"),
    ],
    ids=["laughs", "deep", "levels"],
)
def test_aliases_and_nesting_are_bounded(text, message, tmp_path):
    started = monotonic()
    with pytest.raises(SpecError, match=message):
        parse_storyboard(text)
    (tmp_path / "films.yaml").write_text(text.replace("scenes:", "takes:"))
    with pytest.raises(SpecError, match=message):
        read_rows(str(tmp_path / "films.yaml"))
    assert kind_of("film.yaml", text) == "storyboard"
    assert monotonic() - started < 5


def test_nesting_in_json_lines_is_bounded(tmp_path):
    (tmp_path / "films.jsonl").write_text(
        '{"storyboard": ' + "[" * 100_000 + "\n" + json.dumps({"storyboard": "a.yaml"})
    )
    rows = read_rows(str(tmp_path / "films.jsonl"))
    assert "nested" in rows[0].mistakes[0]
    assert rows[1].values == {"storyboard": "a.yaml"}


def test_a_text_is_read_up_to_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_spec, "MOST_TEXT", 100)
    (tmp_path / "film.yaml").write_text("#" * 101)
    with pytest.raises(SpecError, match="is longer than"):
        load_storyboard(str(tmp_path / "film.yaml"))


def test_an_alias_may_still_be_used():
    scene = "{prompt: a red circle, duration: 2s}"
    assert len(parse_storyboard(f"scenes: [&a {scene}, *a, *a]").scenes) == 3


def test_a_list_that_holds_itself_is_a_mistake(tmp_path):
    with pytest.raises(SpecError, match=r"scenes\[0\]"):
        parse_storyboard("scenes: &a [*a]")
    (tmp_path / "films.yaml").write_text("takes: &a [*a]")
    assert len(read_rows(str(tmp_path / "films.yaml"))) == 1
