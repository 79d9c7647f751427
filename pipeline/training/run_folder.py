"""The folder of a training run; the same command resumes from it.

log.jsonl             a line per interval: step, seconds, lr, losses, examples_per_s
model.safetensors     the latest model, for `longtake render --set model=...`
samples/<step>/       pictures for inspection
run.json              the spec and the valid state; written last, so a crash never leaves half a state
state/<step>/         weights, optimizer, running average
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longtake.pipeline.errors import JournalError, SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.training.spec import TrainSpec

CARD = "run.json"
LOG = "log.jsonl"

# Keys that may change on resume, since no weight depends on them.
_FREE = {"log_every", "checkpoint_every_s", "sample_every_s", "at_least", "at_most"}
# Keys that may change on resume if all learning rates used so far stay the same.
_SCHEDULE = {"steps", "warmup_steps", "decay_fraction", "decay"}


@dataclass(frozen=True)
class Progress:
    """Progress of a run: `step` steps done in `seconds` of work."""

    step: int = 0
    seconds: float = 0.0


class RunFolder:
    """The folder of one run, on a file system shared by all workers."""

    def __init__(self, path: str) -> None:
        self.store = Store(path)
        if not self.store.is_local:
            raise SpecError(f"-o is {path}; DeepSpeed writes there from all workers: use a folder that they share")
        self.path = Path(self.store.url)

    @property
    def model_path(self) -> Path:
        """The path of the model."""
        return self.path / "model.safetensors"

    @property
    def states_path(self) -> Path:
        """The folder of the states, each in a subfolder named by `state_name`."""
        return self.path / "state"

    def samples_path(self, step: int) -> Path:
        """The folder for the samples of a step."""
        return self.path / "samples" / state_name(step)

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.store.exists(CARD)

    def open(self, spec: TrainSpec) -> Progress:
        """The progress of the run in this folder; a new run is at step 0.

        Raises:
            SpecError: the folder holds a run of another spec, or a model that no run wrote.
            JournalError: `run.json` is damaged.
        """
        if not self.exists():
            if self.model_path.exists():
                raise SpecError(f"{self.model_path} was not written by a run; use another -o (nothing was overwritten)")
            return Progress()
        try:
            card = json.loads(self.store.get(CARD))
            progress, old = Progress(int(card["step"]), float(card["seconds"])), read_spec(card["spec"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise JournalError(
                f"{self.store.url_of(CARD)} is damaged ({reason}); use another -o, or add --fresh"
            ) from error
        check_continues(old, spec, progress.step, self.store.url)
        return progress

    def keep(self, spec: TrainSpec, progress: Progress) -> None:
        """Record the written state of `progress.step` as the valid one, and delete older states."""
        card = {"step": progress.step, "seconds": progress.seconds, "spec": spec.model_dump(mode="json")}
        self.store.put(CARD, json.dumps(card, indent=1).encode())
        for old in self.states_path.iterdir():
            if old.name != state_name(progress.step):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to the log."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def last_line(self) -> dict[str, float]:
        """The last line of the log of a run that logged."""
        line: dict[str, float] = json.loads((self.path / LOG).read_text("utf-8").splitlines()[-1])
        return line

    def cut_log(self, step: int) -> None:
        """Remove log lines after `step`, the valid state: these steps will run again."""
        path = self.path / LOG
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            self.store.put(LOG, "".join(kept).encode())


def state_name(step: int) -> str:
    """The folder name of a state."""
    return f"{step:08d}"


def read_spec(card: Mapping[str, Any]) -> TrainSpec:
    """The spec stored in `run.json`."""
    return TrainSpec.model_validate({key: value for key, value in card.items() if value is not None})


def check_continues(old: TrainSpec, new: TrainSpec, step: int, place: str) -> None:
    """Raise `SpecError` if the first `step` steps under `new` would differ in any bit from those under `old`."""
    changed = {key for key in TrainSpec.model_fields if getattr(old, key) != getattr(new, key)} - _FREE
    if changed <= _SCHEDULE and step <= new.steps and all(old.lr_at(done) == new.lr_at(done) for done in range(step)):
        return
    differ = "; ".join(f"{key} is {getattr(new, key)}, it was {getattr(old, key)}" for key in sorted(changed))
    raise SpecError(
        f"{place} holds {step} steps of another run: {differ}. Undo the change, use another -o, or add --fresh"
    )


def fresh_folder(path: str) -> RunFolder:
    """The folder at `path`, or the first of `path-2`, `path-3` ..., that holds no run."""
    number, folder = 1, RunFolder(path)
    while folder.exists():
        number += 1
        folder = RunFolder(f"{path.rstrip('/')}-{number}")
    return folder
