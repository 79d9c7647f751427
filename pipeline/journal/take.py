"""`journal/take.json`: a summary of a take, for programs that watch it without its model or its storyboard."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from longtake.pipeline.clock import ChunkSpan, MediaClock, SceneSpan
from longtake.pipeline.journal.store import Store
from longtake.pipeline.spec import Storyboard

NAME = "journal/take.json"


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True)


class SceneCard(_Card):
    """One scene on the clock; `frames` and `chunks` are half-open ranges."""

    prompt: str
    cut: bool
    frames: tuple[int, int]
    chunks: tuple[int, int]


class TakeCard(_Card):
    """A take at a glance.

    Args:
        fps: exact, such as "24000/1001".
        chunk_stops: the frame after each chunk's last one.
        latent_stops: the frame after each video latent's last one; empty on a card that an older version wrote.
        acts: the acts that each chunk passes, in order.
        film: the film's name in the output root, where it appears once it is complete.
        negatives: the prompts of its unguided passes.
        hls: whether `live/master.m3u8` shows it while it is rendered.
    """

    title: str
    model: str
    fps: str
    sample_rate: int
    frames: int
    samples: int
    chunk_stops: tuple[int, ...]
    latent_stops: tuple[int, ...] = ()
    scenes: tuple[SceneCard, ...]
    acts: tuple[str, ...] = ("embed", "denoise", "decode", "encode", "publish")
    film: str
    hls: bool
    negatives: tuple[str, ...] = ()


def take_card(
    storyboard: Storyboard, clock: MediaClock, scenes: Sequence[SceneSpan], chunks: Sequence[ChunkSpan]
) -> TakeCard:
    """The card of a planned film."""
    cards = []
    for scene, written in zip(scenes, storyboard.scenes, strict=True):
        own = [chunk.index for chunk in chunks if chunk.scene == scene.index]
        cards.append(
            SceneCard(
                prompt=written.prompt,
                cut=scene.cut,
                frames=(scene.frames.start, scene.frames.stop),
                chunks=(own[0], own[-1] + 1),
            )
        )
    return TakeCard(
        title=storyboard.title,
        model=storyboard.model,
        fps=str(storyboard.video.fps),
        sample_rate=storyboard.audio.sample_rate,
        frames=chunks[-1].frames.stop,
        samples=chunks[-1].samples.stop,
        chunk_stops=tuple(chunk.frames.stop for chunk in chunks),
        latent_stops=tuple(stop for chunk in chunks for stop in clock.latent_stops(chunk)),
        scenes=tuple(cards),
        acts=storyboard.acts,
        film=storyboard.output.film,
        hls=storyboard.output.hls,
        negatives=tuple(dict.fromkeys(storyboard.negative_of(scene) for scene in range(len(storyboard.scenes)))),
    )


def put_take(store: Store, card: TakeCard) -> None:
    """Write the card into the output root."""
    store.put(NAME, card.model_dump_json(indent=1).encode())


def read_take(store: Store) -> TakeCard:
    """The card of the take in an output root; FileNotFoundError if there is none."""
    return TakeCard.model_validate_json(store.get(NAME))
