"""What files from elsewhere may name."""

import pytest

from longtake.pipeline.errors import SpecError
from longtake.pipeline.names import check_place, is_plain, is_relative, scheme_of, stays_below
from longtake.pipeline.spec import parse_storyboard


@pytest.mark.parametrize("name", ["a", "a/b.json", "a b/ü.mp4", "..a/b..", "-", "a:b"])
def test_plain_names_stay_below_their_root(name):
    assert stays_below(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a\\b", "..\\a", "a\0b"]
)
def test_other_names_may_lead_out_of_it(name):
    assert not stays_below(name)
    assert not is_plain(name)


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("film.yaml", ""),
        ("/a/b", ""),
        ("12:30 film.mp4", ""),
        ("C:film", ""),
        ("file:/a", "file"),
        ("FILE:///a", "file"),
        ("local:/a", "local"),
        ("data:,a", "data"),
        ("s3://a/b", "s3"),
        ("S3A://a", "s3a"),
    ],
)
def test_schemes_are_those_that_fsspec_sees(url, scheme):
    assert scheme_of(url) == scheme
    assert is_relative(url) is (not scheme and not url.startswith("/"))


@pytest.mark.parametrize(
    "url", ["a.png", "/a.png", "~/a.png", "file:///a.png", "s3://a/b.png", "https://a/b.png", "memory://a"]
)
def test_paths_and_stores_may_be_named(url):
    assert check_place(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "simplecache::s3://a/b",
        "zip://a.png::file:///b.zip",
        "a::b",
        "local:/a",
        "data:,a",
        "sftp://host/a",
        "ftp://host/a",
        "github://a:b@c/d",
        "reference://a",
        "dir://a",
        "jar://a",
        "gopher://a",
        "a\0b",
    ],
)
@pytest.mark.parametrize(
    "key", ["continue_from={}", "audio={}", "scenes[0].image={}", "model={}", "output.upscaler={}"]
)
def test_a_storyboard_names_no_other_places(url, key):
    with pytest.raises(SpecError, match="use a "):
        check_place(url)
    text = "{scenes: [{prompt: a red circle, duration: 2s}]}"
    if "\0" not in url:
        with pytest.raises(SpecError, match=key.split("=")[0].replace("[", r"\[").replace("audio", "audio.file")):
            parse_storyboard(text, [key.format(url)])
