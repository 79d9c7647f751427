"""What files from elsewhere may name."""

import pytest

from longtake.jobs import cli
from longtake.pipeline import names
from longtake.pipeline.errors import SpecError
from longtake.pipeline.names import check_place, is_plain, is_relative, redacted, scheme_of, stays_below
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a cannot be read", "s3://key:***@bucket/a cannot be read"),
        (
            '{"a": "https://me:p%40ss@host:80/x", "b": "ftp://:pw@h"}',
            '{"a": "https://me:***@host:80/x", "b": "ftp://:***@h"}',
        ),
        ("http://127.0.0.1:8265 and me@host: no", "http://127.0.0.1:8265 and me@host: no"),
        ("https://host:80/a@b", "https://host:80/a@b"),
    ],
)
def test_passwords_in_urls_are_not_shown(text, shown):
    assert redacted(text) == shown


def test_a_scheme_can_be_allowed(monkeypatch):
    monkeypatch.setattr(names, "_allowed", set(names._allowed))
    names.allow_schemes(["SFTP"])
    assert check_place("sftp://host/a") == "sftp://host/a"
    with pytest.raises(SpecError, match="chained"):
        check_place("simplecache::sftp://host/a")


@pytest.mark.parametrize("command", ["render", "batch", "submit"])
def test_the_flag_reaches_the_storyboard(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(names, "_allowed", set(names._allowed))
    sent = []
    monkeypatch.setattr("longtake.jobs.submit.run.submit_command", lambda _, options, __: sent.append(options) or 0)
    board = "{model: tiny, continue_from: 'sftp://host/a.mp4', scenes: [{prompt: a red circle, duration: 2s}]}"
    text = board if command != "batch" else f"takes: [{{storyboard: {board}}}]"
    (tmp_path / "film.yaml").write_text(text)
    arguments = [command, str(tmp_path / "film.yaml"), "-o", str(tmp_path / "out"), "--allow-scheme", "sftp"]
    with pytest.raises(SystemExit):
        cli.main(
            [*arguments, *(["--address", "http://127.0.0.1:1"] if command == "submit" else ["--address", "local"])]
        )
    assert "--allow-scheme" not in capsys.readouterr().err
    assert names.check_place("sftp://host/a")
    assert not sent or sent[0].flags == ("--allow-scheme", "sftp")


def test_no_log_event_or_error_shows_a_password(tmp_path, capsys):
    import io
    import json

    from longtake.actors import logs
    from longtake.jobs import entry
    from longtake.pipeline.journal.event_log import EventLog
    from longtake.pipeline.journal.store import Store

    secret = "s3://key:secret@bucket/take"
    stream = io.StringIO()
    logs.configure(stream).info("take.opened", extra={"fields": {"take": secret}})
    assert "secret" not in stream.getvalue()
    assert "key" in json.loads(stream.getvalue())["take"]
    with EventLog(Store(str(tmp_path))) as log:
        log.event("film.done", url=secret)
    assert "secret" not in (tmp_path / "events.jsonl").read_text()

    def fail() -> None:
        raise SpecError(f"-o is {secret}")

    app = entry.new_app()
    app.command()(fail)
    with pytest.raises(SystemExit):
        entry.run(app, [])
    assert "secret" not in capsys.readouterr().err
