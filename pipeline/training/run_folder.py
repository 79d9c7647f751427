"""What a training run leaves behind, so that the same command goes on where it ended.

log.jsonl             a line per interval: step, seconds, lr, losses, examples_per_s
model.safetensors     the model as it is now; `longtake render --set model=...` takes it
samples/<step>/       something to look at
run.json              the spec, and which state counts: written last, so a run that dies never leaves half a state
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

# What may change between a run and its continuation, since no weight depends on it.
_FREE = {"log_every", "checkpoint_every_s", "sample_every_s"}
# What may change as long as no learning rate changes that was already used.
_SCHEDULE = {"steps", "warmup_steps", "decay_fraction", "decay"}


@dataclass(frozen=True)
class Progress:
    """How far a run is: `step` steps are done, in `seconds` of work."""

    step: int = 0
    seconds: float = 0.0


class RunFolder:
    """The folder of one run, on a file system that every worker sees."""

    def __init__(self, path: str) -> None:
        self.store = Store(path)
        if not self.store.is_local:
            raise SpecError(f"-o is {path}; workers write there with DeepSpeed: use a folder that all of them see")
        self.path = Path(self.store.url)

    @property
    def model_path(self) -> Path:
        """Where the model is."""
        return self.path / "model.safetensors"

    @property
    def states_path(self) -> Path:
        """Where states are, each in a folder named by `state_name`."""
        return self.path / "state"

    def samples_path(self, step: int) -> Path:
        """Where the samples of a step go."""
        return self.path / "samples" / state_name(step)

    def exists(self) -> bool:
        """Whether a run is here."""
        return self.store.exists(CARD)

    def open(self, spec: TrainSpec) -> Progress:
        """How far the run is that is here, if any.

        Raises:
            SpecError: another spec was trained here, or what is here is no run.
            JournalError: `run.json` is damaged.
        """
        if not self.exists():
            if self.model_path.exists():
                raise SpecError(f"{self.model_path} is no run of ours; use another -o, nothing is overwritten")
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
        """Have the state of `progress.step`, which is written, count from now on; older states go."""
        card = {"step": progress.step, "seconds": progress.seconds, "spec": spec.model_dump(mode="json")}
        self.store.put(CARD, json.dumps(card, indent=1).encode())
        for old in self.states_path.iterdir():
            if old.name != state_name(progress.step):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_log(self, step: int) -> None:
        """Forget what was logged after `step`, the state that counts: it will happen again."""
        path = self.path / LOG
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            self.store.put(LOG, "".join(kept).encode())


def state_name(step: int) -> str:
    """The folder of a state."""
    return f"{step:08d}"


def read_spec(card: Mapping[str, Any]) -> TrainSpec:
    """The spec that `run.json` holds."""
    return TrainSpec.model_validate({key: value for key, value in card.items() if value is not None})


def check_continues(old: TrainSpec, new: TrainSpec, step: int, place: str) -> None:
    """Raise `SpecError` where `new` would not have done the first `step` steps of `old`, bit for bit."""
    changed = {key for key in TrainSpec.model_fields if getattr(old, key) != getattr(new, key)} - _FREE
    if changed <= _SCHEDULE and step <= new.steps and all(old.lr_at(done) == new.lr_at(done) for done in range(step)):
        return
    differ = "; ".join(f"{key} is {getattr(new, key)}, it was {getattr(old, key)}" for key in sorted(changed))
    raise SpecError(f"{place} holds {step} steps of another run: {differ}. Undo that, use another -o, or add --fresh")


def fresh_folder(path: str) -> RunFolder:
    """The folder itself where no run is, or the first of `path-2`, `path-3` ... without one."""
    number, folder = 1, RunFolder(path)
    while folder.exists():
        number += 1
        folder = RunFolder(f"{path.rstrip('/')}-{number}")
    return folder
