"""The check that starts a Ray cluster on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

from longtake.jobs.doctor.finding import Finding

RAY_START_S = 90.0
_RAY_SCRIPT = """
import sys, time
import ray
started = time.perf_counter()
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=sys.argv[1],
         logging_level="ERROR", log_to_driver=False)
up = time.perf_counter()
assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
done = time.perf_counter()
ray.shutdown()
print(f"up in {up - started:.1f} s, first task after {done - up:.1f} s")
"""


def check_ray(*, start: bool, timeout_s: float = RAY_START_S) -> Iterator[Finding]:
    """Start a separate cluster on this machine and run a task, in a process that is killed after `timeout_s`."""
    name = f"Ray {version('ray')}"
    if not start:
        yield Finding("ray", "ok", f"{name}, not started (--no-ray)")
        return
    with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", _RAY_SCRIPT, folder]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                fix = "check for other Ray clusters, a full disk, and a firewall on the loopback interface"
                yield Finding("ray", "FAIL", f"{name}: no task ran within {timeout_s:g} s", fix)
                return
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with raylet and GCS, which are in its process group
    if process.returncode == 0:
        yield Finding("ray", "ok", f"{name}: {out.strip()}")
    else:
        said = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        fix = f"make ray.init() work on its own first; {tempfile.gettempdir()} (TMPDIR) must be a short, writable path"
        yield Finding("ray", "FAIL", f"{name}: {said}", fix)
