import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """if True:
    import os, signal, subprocess, sys, time
    from longtake.jobs.entry import Command, new_app, run
    from longtake.jobs.interrupt import killed_with_this, received, resumable, stop_on_signals, until_ctrl_c

    def send(*numbers):
        for number in numbers:
            os.kill(os.getpid(), number)

    def command(json: bool = False) -> None:
        with resumable("finished chunks"):
            BODY
        time.sleep(5)
        print("still here", flush=True)

    app = new_app()
    app.command(cls=Command)(command)
    run(app)
"""
RESUMES = "run the same command again to resume (finished chunks are kept)"


def ended(body, *arguments, command=COMMAND, **options):
    script = command.replace("BODY", body)
    child = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )
    return child.returncode, child.stdout, child.stderr


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIGTERM"), ("SIGHUP", 129, "stopped by SIGHUP")],
)
def test_the_first_signal_says_how_to_resume_and_has_the_exit_code_of_shells(name, code, what):
    assert ended(f"send(signal.{name})") == (code, "", f"longtake: {what}; {RESUMES}\n")


def test_the_second_signal_ends_the_process_at_once_and_its_children():
    body = """
            child = subprocess.Popen(["sleep", "60"])
            print(child.pid, flush=True)
            with stop_on_signals(lambda: print("stopping", flush=True)), killed_with_this(child):
                send(signal.SIGTERM, signal.SIGTERM)  # as timeout does, to the process and to its group
                time.sleep(0.4)
                send(signal.SIGTERM)
                time.sleep(5)"""
    code, printed, error = ended(body)
    child, *lines = printed.splitlines()
    assert (code, lines, error) == (143, ["stopping"], "")
    stat = Path(f"/proc/{child}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().split()[2] == "Z":  # it is dead, and waits for its new parent
            return
        sleep(0.02)
    pytest.fail("the child is alive")


def test_an_error_that_stopping_causes_does_not_hide_the_signal():
    body = """
            try:
                send(signal.SIGTERM)
            finally:
                raise OSError("the node is gone")"""
    code, printed, error = ended(body, "--json")
    assert (code, error) == (143, f"longtake: stopped by SIGTERM; {RESUMES}\n")
    assert '"exit_code": 143' in printed


def test_under_nohup_a_closed_terminal_ends_nothing():
    body = "send(signal.SIGHUP); print('continues', flush=True); sys.exit(0)"
    assert ended(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) == (0, "continues\n", "")


def test_a_page_ends_quietly_by_ctrl_c_but_not_by_other_signals():
    body = """
            with until_ctrl_c():
                send(signal.{})
            sys.exit(0)"""
    assert ended(body.format("SIGINT")) == (0, "", "")
    assert ended(body.format("SIGTERM"))[0] == 143


def test_a_terminal_that_is_closed_is_written_to_no_more():
    near, far = os.openpty()
    script = COMMAND.replace("BODY", "os.read(3, 1); send(signal.SIGHUP)")
    readable, writable = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.dup2({readable}, 3)\n" + script],
        cwd=ROOT,
        stdin=far,
        stdout=far,
        stderr=far,
        pass_fds=[readable],
    )
    os.close(far)
    os.close(near)
    os.write(writable, b"x")
    assert child.wait(20) == 129
    os.close(readable)
    os.close(writable)


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIGTERM"), ("SIGHUP", 129, "stopped by SIGHUP")],
)
def test_a_signal_while_the_command_is_imported_ends_it_with_one_line(name, code, what, tmp_path):
    (tmp_path / "typer.py").write_text(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from longtake.jobs.cli import main; main(['--help'])"
    assert ended(script, command="BODY") == (code, "", f"longtake: {what}\n")
