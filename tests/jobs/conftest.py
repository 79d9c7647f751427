"""Commands that tests run."""

import signal
import subprocess

import pytest


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs a command as `longtake` does, but in this process, which has imported torch already: that takes seconds."""
    from longtake.jobs.cli import main

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own Ctrl-C stays what it is

    def run(*arguments, check=False):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        answer = subprocess.CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())
        if check:
            answer.check_returncode()
        return answer

    return run
