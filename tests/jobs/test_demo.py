import json
import subprocess
import sys
from pathlib import Path

from longtake.jobs.demo import with_timings

ROOT = Path(__file__).parents[2]
STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 12s}]}"


def test_the_demo_kills_its_render_resumes_it_and_gets_the_same_bits(tmp_path):
    storyboard, out = tmp_path / "film.yaml", tmp_path / "out"
    storyboard.write_text(STORYBOARD)
    command = [sys.executable, "-m", "longtake.jobs", "demo", "--storyboard", storyboard, "-o", out, "--chaos"]
    answer = subprocess.run(
        [*map(str, command), "--no-open", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["same_bits"] is True
    assert "equals the undisturbed one, bit for bit" in " ".join(answer.stderr.split())
    assert (out / "film.mp4").read_bytes() == (out / "undisturbed" / "film.mp4").read_bytes()
    page = (out / "report.html").read_text()
    for name in ("render until it is killed", "resumed render", "undisturbed render", "measurement"):
        assert name in page
        assert result["seconds"][name] > 0
    assert Path(result["sheet"]).read_bytes().startswith(b"\x89PNG")


def test_the_film_of_the_demo_is_the_one_in_the_examples():
    assert (ROOT / "jobs" / "demo.yaml").read_text() == (ROOT / "examples" / "demo.yaml").read_text()


def test_timings_are_escaped_and_stand_at_the_end_of_the_page():
    page = with_timings("<body><main>film</main></body>", {"a <b>": 1.25})
    assert page.startswith("<body><main>film<h2>")
    assert page.endswith("<td>a &lt;b&gt;</td><td>1.2 s</td></tr></table></main></body>")
