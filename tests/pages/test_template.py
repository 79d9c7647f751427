"""Pages: every value is escaped, nothing is loaded from elsewhere, and one base serves all."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from longtake.jobs.batch.ledger import Record
from longtake.jobs.batch.report import Report, Run
from longtake.pipeline.pages.template import render_page, text_of

ROOT = Path(__file__).parents[2]
HOSTILE = """"><script>alert('1')</script><img src=x onerror="alert(2)">{{ 7 * 7 }}&lt;"""


def reported(state="quarantined"):
    """The page of a batch in which every text is hostile."""
    record = Record(
        id=HOSTILE,
        fingerprint="0",
        state=state,
        cause=HOSTILE,
        film_s=1,
        output=HOSTILE,
        project=HOSTILE,
        tags=(HOSTILE,),
    )
    other = Record(id="b", fingerprint="1", film_s=1, output="b")
    run = Run(manifest=HOSTILE, root=HOSTILE, num_gangs=1, seconds=1, finished=0, stopped=False)
    report = Report(run, (record, other), "")
    return report.to_html("/out/batch/", {HOSTILE: HOSTILE}, [(HOSTILE, HOSTILE)])


@pytest.mark.parametrize("state", ["quarantined", "done"])
def test_hostile_names_stay_text(state):
    page = reported(state)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "onerror=&#34;" in page
    assert "49" not in re.sub(r"\d+%|\d+px", "", page.split("<main>")[1]), "a value is no template"


def test_a_page_may_load_nothing_from_elsewhere():
    page = reported()
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    for name in (
        "pipeline/pages/base.html",
        "pipeline/pages/base.css",
        "pipeline/pages/report.css",
        "jobs/watch/page.css",
    ):
        assert "//" not in re.sub(r"data:[^\"]*", "", text_of(name)), name


def test_all_pages_have_one_base_and_both_colour_schemes():
    pages = [path for folder in ("jobs", "pipeline") for path in (ROOT / folder).rglob("*.html")]
    bases = {"pipeline/pages/base.html", "pipeline/pages/report.html"}
    for path in pages:
        name = path.relative_to(ROOT).as_posix()
        if name not in ("pipeline/pages/base.html", "pipeline/pages/card.html"):
            assert re.search(r'{% extends "([^"]+)" %}', path.read_text()).group(1) in bases, name
    assert "prefers-color-scheme: dark" in text_of("pipeline/pages/base.css")
    assert 'content="light dark"' in reported()


def test_a_value_that_a_page_lacks_is_an_error():
    with pytest.raises(UndefinedError):
        render_page("jobs/batch/report.html", title="only")
