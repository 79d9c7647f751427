"""Progress of a take, read from its card and its event log: needs no model and no storyboard, works on any machine."""

from collections import deque
from datetime import UTC, datetime
from fractions import Fraction
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect.event_tail import Event, EventTail
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import NAME, TakeCard, read_take

MASTER_NAME = "live/master.m3u8"  # as in pipeline/media/hls.py, whose import takes two seconds
State = Literal["rendering", "stalled", "done", "failed", "interrupted"]

_RECENT_CHUNKS = 120  # a median over these, and the chart that shows them
_RATE_CHUNKS = 32  # the speed is measured over the latest chunks
_QUIET_CHUNKS, _LEAST_QUIET_S, _START_UP_S = 5, 30.0, 300.0


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ActStatus(_Part):
    """Progress of one pipeline stage.

    Args:
        done: chunks finished, including those in the journal; for `publish`, counted from the film's start.
        kept: how many of them an earlier render finished.
        median_s: median seconds per chunk over the latest chunks; None before the first.
        last_s: seconds of the latest chunk.
        chunk_s: the latest chunks with their seconds.
    """

    act: str
    done: int
    kept: int
    median_s: float | None
    last_s: float | None
    chunk_s: tuple[tuple[int, float], ...]


class SceneStatus(_Part):
    """One scene: its time span in seconds, whether it starts with a cut, its chunks, and how many are published."""

    prompt: str
    cut: bool
    start_s: float
    stop_s: float
    chunks: tuple[int, int]
    published: int


class Status(_Part):
    """The status of a take at one moment.

    Args:
        summary: the state in one sentence.
        error: the error that ended the render, in one line; None without one.
        road: how the render runs, such as "in-process"; None before it starts.
        runs: number of renders started in this take.
        chunks: chunks in the whole film.
        published: chunks that can be watched.
        chunk_film_s: duration of a full chunk in the film.
        realtime: seconds of film published per second, over the latest chunks; over the whole render once it is done.
        eta_s: seconds until the film is complete at that speed.
        quiet_s: seconds since the latest event.
        plays: name, in the output root, of the file to play now; None if nothing can be played yet.
    """

    title: str
    model: str
    fps: str
    state: State
    summary: str
    error: str | None
    road: str | None
    runs: int
    chunks: int
    published: int
    film_s: float
    published_s: float
    chunk_film_s: float
    acts: tuple[ActStatus, ...]
    scenes: tuple[SceneStatus, ...]
    realtime: float | None
    eta_s: float | None
    quiet_s: float | None
    updated: str | None
    plays: str | None


def read_status(store: Store) -> Status:
    """The status of the take in `store`. Raises SpecError if the store holds none."""
    return TakeReader(store).read()


class TakeReader:
    """Reads a take's status repeatedly; each event of its log is read once.

    Args:
        num_events: how many of the latest events to keep in `events`.

    Raises:
        SpecError: the store holds no take.
    """

    def __init__(self, store: Store, num_events: int = 400) -> None:
        self._store, self._tail = store, EventTail(store)
        self._card = _read_card(store)
        self._run = _Run(self._card)
        self._live = False
        self.events: deque[Event] = deque(maxlen=num_events)
        self.num_events = 0

    def read(self, now: datetime | None = None) -> Status:
        """The status at `now`, by default the current time."""
        replaced, added = self._tail.poll()
        if replaced:
            self._run, self.num_events = _Run(self._card), 0
            self.events.clear()
        for event in added:
            if event["event"] == "film.start":  # an edited storyboard brings another card
                self._card = self._run.card = _read_card(self._store)
            self._run.add(event)
            self.events.append(event)
            self.num_events += 1
        return self._run.status(now or datetime.now(UTC), self._plays())

    def _plays(self) -> str | None:
        if self._run.ended == "done":
            return self._card.film
        if self._card.hls and self._run.done["publish"]:
            self._live = self._live or self._store.exists(MASTER_NAME)
        return MASTER_NAME if self._live else None


def _read_card(store: Store) -> TakeCard:
    try:
        return read_take(store)
    except FileNotFoundError:
        raise SpecError(
            f"{store.url} holds no take; render one with longtake render STORYBOARD -o {store.url}"
        ) from None
    except ValidationError as error:
        raise SpecError(f"{store.url_of(NAME)} is damaged; render again to rewrite it") from error


class _Run:
    """State accumulated from the events: counts over all renders of the take, times of the latest one."""

    def __init__(self, card: TakeCard) -> None:
        self.card = card
        self.ended: Literal["", "done", "failed", "interrupted"] = ""
        self.error: str | None = None
        self.road: str | None = None
        self.runs = 0
        self.updated: str | None = None
        self.done = dict.fromkeys(card.acts, 0)
        self.kept = dict.fromkeys(card.acts, 0)
        self.recent: dict[str, deque[tuple[int, float]]] = {act: deque(maxlen=_RECENT_CHUNKS) for act in card.acts}
        self.encoded_before: set[int] = set()
        self.made: dict[str, set[int]] = {act: set() for act in card.acts}
        self.made_s, self.to_make_s = 0.0, self.film_s(len(card.chunk_stops))  # of film, by this render
        self.points: deque[tuple[float, float]] = deque(maxlen=_RATE_CHUNKS + 1)  # (wall, film made) in seconds
        self.first_point = (0.0, 0.0)

    def add(self, event: Event) -> None:
        name = event["event"]
        act, _, what = name.partition(".")
        self.updated = event["time"]
        if what == "chunk" and act in self.done:
            self._chunk(act, event)
        elif name == "road.start":
            self.ended, self.error, self.road = "", None, event.get("road")
            self.runs += 1
        elif name == "film.start":
            self._start(event)
        elif name == "film.done":
            self.ended = "done"
            self.done = dict.fromkeys(self.card.acts, len(self.card.chunk_stops))
        elif name == "road.failed":
            self._fail(event.get("error", "an error"), str(event.get("message", "")))

    def _start(self, event: Event) -> None:
        latents, segments = int(event.get("kept_latents", 0)), int(event.get("kept_segments", 0))
        ranges = event.get("encoded", [[0, segments]])  # earlier versions kept chunks from the start only
        self.encoded_before = {chunk for start, stop in ranges for chunk in range(start, stop)}
        from_start = ranges[0][1] if ranges and not ranges[0][0] else 0
        # The publisher starts again from the first segment; viewers lose only segments that changed.
        known = {"embed": latents, "denoise": latents, "publish": min(from_start, self.done["publish"])}
        self.kept = {act: known.get(act, segments) for act in self.card.acts}
        self.done = dict(self.kept)
        self.made = {act: set() for act in self.card.acts}
        self.recent = {act: deque(maxlen=_RECENT_CHUNKS) for act in self.card.acts}
        missing = [chunk for chunk in range(len(self.card.chunk_stops)) if chunk not in self.encoded_before]
        self.made_s, self.to_make_s = 0.0, sum(map(self._chunk_s, missing))
        self._begin_rate(event["time"])

    def _chunk(self, act: str, event: Event) -> None:
        chunk = event["chunk"]
        self.ended, self.error = "", None  # a failure before this event was a second writer that was refused
        self.made[act].add(chunk)
        if act != "publish":
            self.done[act] = self.kept[act] + len(self.made[act])
        else:
            self.done[act] = max(self.done[act], chunk + 1)
            if chunk in self.encoded_before:
                if not self.made_s:
                    self._begin_rate(event["time"])
                return
            self.made_s += self._chunk_s(chunk)
            self.points.append((_seconds(event["time"]), self.made_s))
        self.recent[act].append((chunk, event["seconds"]))

    def _chunk_s(self, chunk: int) -> float:
        return self.film_s(chunk + 1) - self.film_s(chunk)

    def _begin_rate(self, time: str) -> None:
        self.first_point = (_seconds(time), 0.0)
        self.points.clear()
        self.points.append(self.first_point)

    def _fail(self, error: str, message: str) -> None:
        self.ended = "interrupted" if error in ("Interrupted", "KeyboardInterrupt", "Cancelled") else "failed"
        self.error = None if self.ended == "interrupted" else f"{error}: {message}".removesuffix(": ")

    def film_s(self, chunks: int) -> float:
        stops = self.card.chunk_stops
        return float(stops[min(chunks, len(stops)) - 1] / Fraction(self.card.fps)) if chunks else 0.0

    def status(self, now: datetime, plays: str | None) -> Status:
        card, published = self.card, min(self.done["publish"], len(self.card.chunk_stops))
        quiet_s = None if self.updated is None else max(0.0, now.timestamp() - _seconds(self.updated))
        acts = tuple(self._act(act) for act in card.acts)
        state, summary = self._state(quiet_s, published, acts)
        realtime, film_s = self._realtime(), self.film_s(len(card.chunk_stops))
        return Status(
            title=card.title,
            model=card.model,
            fps=card.fps,
            state=state,
            summary=summary,
            error=self.error,
            road=self.road,
            runs=self.runs,
            chunks=len(card.chunk_stops),
            published=published,
            film_s=film_s,
            published_s=self.film_s(published),
            chunk_film_s=self.film_s(1),
            acts=acts,
            scenes=tuple(self._scenes(published)),
            realtime=realtime,
            eta_s=self._eta_s(now, realtime) if state == "rendering" else None,
            quiet_s=quiet_s,
            updated=self.updated,
            plays=plays,
        )

    def _act(self, act: str) -> ActStatus:
        recent, total = self.recent[act], len(self.card.chunk_stops)
        return ActStatus(
            act=act,
            done=min(self.done[act], total),
            kept=min(self.kept[act], total),
            median_s=median(seconds for _, seconds in recent) if recent else None,
            last_s=recent[-1][1] if recent else None,
            chunk_s=tuple(recent),
        )

    def _scenes(self, published: int) -> list[SceneStatus]:
        fps = Fraction(self.card.fps)
        return [
            SceneStatus(
                prompt=scene.prompt,
                cut=scene.cut,
                start_s=float(scene.frames[0] / fps),
                stop_s=float(scene.frames[1] / fps),
                chunks=scene.chunks,
                published=min(max(published - scene.chunks[0], 0), scene.chunks[1] - scene.chunks[0]),
            )
            for scene in self.card.scenes
        ]

    def _state(self, quiet_s: float | None, published: int, acts: tuple[ActStatus, ...]) -> tuple[State, str]:
        so_far = f"{published} of {len(self.card.chunk_stops)} chunks published"
        if self.ended == "done":
            return "done", f"The film is complete: {len(self.card.chunk_stops)} chunks."
        if self.ended == "interrupted":
            return "interrupted", f"Interrupted with {so_far}; run the same command again to resume."
        if self.ended == "failed":
            return "failed", f"Failed with {so_far}; run the same command again to resume."
        if quiet_s is None:
            return "rendering", "Starting; no event yet."
        slowest_s = max((act.median_s for act in acts if act.median_s is not None), default=None)
        allowed_s = _START_UP_S if slowest_s is None else max(_LEAST_QUIET_S, _QUIET_CHUNKS * slowest_s)
        if quiet_s > allowed_s:
            pace = (
                "no chunk is finished" if slowest_s is None else f"the slowest stage takes {slowest_s:.1f} s per chunk"
            )
            return "stalled", f"No event for {quiet_s:.0f} s ({pace}): hung or killed, with {so_far}."
        return "rendering", f"Rendering: {so_far}."

    def _realtime(self) -> float | None:
        if len(self.points) < 2:
            return None
        start, stop = self.first_point if self.ended == "done" else self.points[0], self.points[-1]
        return (stop[1] - start[1]) / max(stop[0] - start[0], 1e-3)

    def _eta_s(self, now: datetime, realtime: float | None) -> float | None:
        if not realtime:
            return None
        wall_s, made_s = self.points[-1]
        return max(0.0, (self.to_make_s - made_s) / realtime - (now.timestamp() - wall_s))


def _seconds(time: Any) -> float:
    return datetime.fromisoformat(time).timestamp()
