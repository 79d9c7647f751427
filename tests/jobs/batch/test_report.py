"""The report of a batch: links to films, stills of them, and a page for every run."""

import json
import re

from longtake.jobs.batch.ledger import Record
from longtake.jobs.batch.thumbnails import link
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from tests.inspect.foreign_films import moving_waves, write_film
from tests.jobs.batch.sessions import World, run
from tests.jobs.batch.test_batch import batch_of


def pages_of(store):
    return sorted(name for name in store.list("runs") if name.endswith(".html"))


def test_a_second_run_keeps_the_report_of_the_first(tmp_path):
    manifest, batch = batch_of(tmp_path, "a", "b"), Store(str(tmp_path / "out" / "batch"))
    run(manifest, tmp_path / "out", World(raises={"b": [SpecError("a cause")]}))
    (first,) = pages_of(batch)
    report = batch.get(first)
    run(manifest, tmp_path / "out", World(), retry_quarantined=True)
    run(manifest, tmp_path / "out", World())
    assert len(pages_of(batch)) == 3
    assert batch.get(first) == report
    assert b"a cause" in report
    last = batch.get("report.html").decode()
    assert "a cause" not in last
    assert set(re.findall(r'<a href="(runs/[^"]+)"', last)) < set(pages_of(batch))
    assert json.loads(batch.get(first.replace(".html", ".json")))["figures"]["quarantined"] == 1


def test_takes_link_to_their_films_and_show_a_still(tmp_path):
    manifest, batch = batch_of(tmp_path, "a", "b"), Store(str(tmp_path / "out" / "batch"))
    run(manifest, tmp_path / "out", World())
    assert "<img" not in batch.get("report.html").decode(), "a film that does not decode has no still"
    write_film(tmp_path / "out" / "a" / "film.mp4", moving_waves())
    run(manifest, tmp_path / "out", World())
    page = batch.get("report.html").decode()
    assert '<a href="../a/film.mp4">a</a>' in page
    assert '<a href="../b/film.mp4">b</a>' in page
    assert page.count('<img src="data:image/jpeg;base64,') == 1
    assert '<a href="../../a/film.mp4">a</a>' in batch.get(pages_of(batch)[-1]).decode()
    assert [name for name in batch.list("thumbs") if name.startswith("thumbs/a-")]


def test_a_film_that_a_browser_cannot_reach_is_not_linked():
    def linked(output, folder, state="done"):
        return link(Record(id="a", fingerprint="0", state=state, film_s=1, output=output), folder)

    assert linked("s3://films/n/a", "s3://films/n/batch/") == "../a/film.mp4"
    assert linked("s3://other/a", "s3://films/n/batch/") == ""
    assert linked("https://films.example/a b", "/out/batch/") == "https://films.example/a%20b/film.mp4"
    assert linked("s3://other/a", "/out/batch/") == ""
    assert linked("/out/a", "/out/batch/", state="pending") == ""
