"""`longtake retake`: candidates for a part of a finished film, next to the film.

OUT/retakes/1/0     the film as it was when its first retake was asked for
OUT/retakes/1/2     the second candidate, a take of its own
"""

from dataclasses import dataclass
from json import dumps

from longtake.actors.rendering import RenderOptions, open_render, render
from longtake.jobs.progress import Progress
from longtake.jobs.render.progress import RenderProgress
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.root import take_root
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.storyboard import put_storyboard, read_storyboard
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.observe import SILENT
from longtake.pipeline.spec import Storyboard, load_storyboard, parse_storyboard
from longtake.pipeline.take import Take


@dataclass(frozen=True)
class Wish:
    """What is to be rendered again; see `spec.Retake`.

    Args:
        candidates: how many.
        seed: of the first; each further one has the next seed.
    """

    start: str
    stop: str
    prompt: str | None
    streams: tuple[str, ...]
    candidates: int
    seed: int

    def of(self, storyboard: Storyboard, take: str, number: int) -> Storyboard:
        """The storyboard with a candidate's retake of `take`."""
        entry = {
            "take": take,
            "from": self.start,
            "to": self.stop,
            "seed": self.seed + number - 1,
            "streams": self.streams,
            **({} if self.prompt is None else {"prompt": self.prompt}),
        }
        text = storyboard.model_dump_json(by_alias=True)
        known = storyboard.model_dump(mode="json", by_alias=True)["retakes"]
        return parse_storyboard(text, [f"retakes={dumps([*known, entry])}"], source="retake")


def retake_command(
    output: str, wish: Wish, storyboard_url: str | None, options: RenderOptions, progress: Progress
) -> None:
    """Render the candidates, or resume them.

    Args:
        storyboard_url: of the film; None for the one that its take holds.
    """
    store, feedback = take_root(output), progress.feedback
    storyboard = read_storyboard(store) if storyboard_url is None else load_storyboard(storyboard_url)
    progress.phase(f"loading {storyboard.model}")
    film = open_render(storyboard, store.url, options)
    if film.published() is None:
        raise SpecError(
            f"{store.url} is not finished, or was rendered with other flags or code; render it first with longtake"
            " render"
        )
    place = _place(store, wish, storyboard)
    open_render(wish.of(storyboard, store.url, 1), f"{place}/1", options)  # what is wrong is said before it is copied
    before = Store(f"{place}/0")
    progress.phase("copying the film as it is")
    _copy(film, before)
    films = []
    for number in range(1, wish.candidates + 1):
        take = open_render(wish.of(storyboard, before.url, number), f"{place}/{number}", options)
        films.append((take.published() or render(take, options, RenderProgress(take, progress))).url)
    progress.stop()
    lines = [f"{number}: {url}" for number, url in enumerate(films, start=1)]
    lines.append(f"`longtake choose {output} NUMBER` publishes one; 0 is the film as it was.")
    feedback.result("\n".join(lines), candidates=films)


def choose_command(output: str, candidate: int, retake: int | None, options: RenderOptions, progress: Progress) -> None:
    """`longtake choose`: publish a candidate. Nothing is rendered, and no candidate is lost.

    Args:
        retake: its number; None for the latest.
    """
    store = take_root(output)
    number = retake or latest(store)
    if not number:
        raise SpecError(f"{store.url} has no retake; render one with longtake retake {output} --from 2s --to 4s")
    place = Store(f"{store.url}/retakes/{number}/{candidate}")
    if not place.list("journal/segments"):
        raise SpecError(f"{place.url} holds no candidate; name one that `longtake retake` rendered, or 0")
    take = open_render(read_storyboard(place), store.url, options)
    there = take.journal.at(place)
    if missing := {*range(len(take.plan.chunks))} - {*there.kept("segments")}:
        first = min(missing)
        raise SpecError(
            f"{place.url} does not hold chunk {first} ({there.why_not('segments', first)}); finish it with the same"
            " longtake retake, and use its flags"
        )
    progress.phase("publishing")
    with sole_writer(store):
        there.copy_to(take.journal)
    film = take.published() or render(take, options, SILENT)
    progress.stop()
    progress.feedback.result(f"{film.url}: candidate {candidate} of retake {number}", film=film.url)


def _place(store: Store, wish: Wish, storyboard: Storyboard) -> str:
    """The folder of this wish: the latest one if it is for the same, else a new one."""
    number = latest(store)
    if number:
        place = f"{store.url}/retakes/{number}"
        first = Store(f"{place}/1")
        if not first.list("journal/latents"):
            return place  # it was ended before its first candidate began
        try:
            if read_storyboard(first) == wish.of(storyboard, f"{place}/0", 1):
                return place
        except SpecError:  # its storyboard names a URL with a password, so that it was not stored
            pass
    return f"{store.url}/retakes/{number + 1}"


def latest(store: Store) -> int:
    """The number of the latest retake of a take; 0 if there is none."""
    names = (name.removeprefix("retakes/").partition("/")[0] for name in store.list("retakes"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _copy(film: Take, place: Store) -> None:
    with sole_writer(place):
        film.journal.copy_to(film.journal.at(place))
        put_storyboard(place, film.plan.storyboard)
