import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """if True:
    import os, signal, time
    from longtake.jobs.interrupt import interrupt_once

    interrupt_once()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    print("still here")
"""


def test_the_first_ctrl_c_raises_and_the_second_ends_the_process():
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "stopping\n")
