"""Retakes: only their time is rendered again, everything else keeps its packets, and kills change nothing."""

import pytest
import torch

from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.journal import segment_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from tests.tiny_take import Recorder, legs

MODEL = EmbeddedModel.untrained(TINY)
FILM = """
model: tiny
seed: 4
sampling: {steps: 2, guidance: 1}
video: {width: 16, height: 16}
output: {hls: false}
scenes:
  - {prompt: a red circle bounces fast, duration: 4s}
  - {prompt: a blue square rests, duration: 2s}
"""


def take_in(place, *retakes):
    text = FILM + "".join(f"\nretakes: [{', '.join(retakes)}]" if retakes else "")
    return open_take(plan_film(parse_storyboard(text), MODEL), MODEL, Store(str(place)), numerics(MODEL))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished film of six chunks of a second."""
    take = take_in(tmp_path_factory.mktemp("whole"))
    film.render(take)
    assert len(take.plan.chunks) == 6
    return take


def segments(take):
    return [segment_to_bytes(take.journal.segment(chunk)) for chunk in take.plan.chunks]


def latents(take):
    return [take.journal.latents(chunk) for chunk in take.plan.chunks]


def retake(whole, rest="from: 2s, to: 4s, seed: 9"):
    return f"{{take: {whole.store.url}, {rest}}}"


def test_only_its_chunks_are_rendered_and_the_others_keep_their_packets(whole, tmp_path):
    take, recorder = take_in(tmp_path, retake(whole)), Recorder()
    film.render(take, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == [2, 3]
    same = [one == other for one, other in zip(segments(take), segments(whole), strict=True)]
    assert same == [True, True, False, False, True, True]
    new, old = latents(take), latents(whole)
    assert torch.equal(new[3].video[-1], old[3].video[-1]), "the picture meets what follows"
    for chunk in (2, 3):
        differ = (new[chunk].video != old[chunk].video).flatten(1).any(1)
        assert differ.tolist() == [True, True, True, chunk == 2]
        assert (new[chunk].audio != old[chunk].audio).any()
    published = take.published()
    assert published is not None
    assert published.num_frames == whole.plan.num_frames


def test_killed_anywhere_it_ends_in_the_same_bits(whole, tmp_path):
    undisturbed = take_in(tmp_path / "one", retake(whole))
    film.render(undisturbed)
    kills = [("denoise.chunk", 2), ("decode.chunk", 2), ("encode.chunk", 3)]
    done = [
        recorder.acted("denoise")
        for recorder in legs(lambda seen: film.render(take_in(tmp_path / "two", retake(whole)), seen), kills)
    ]
    assert done == [[2], [], [3], []]
    assert Store(str(tmp_path / "two")).get("film.mp4") == undisturbed.store.get("film.mp4")


def test_a_stream_that_is_left_alone_keeps_its_latents(whole, tmp_path):
    take = take_in(tmp_path, retake(whole, "from: 2s, to: 3s, seed: 9, streams: [audio]"))
    film.render(take)
    new, old = latents(take)[2], latents(whole)[2]
    assert torch.equal(new.video, old.video)
    assert (new.audio != old.audio).any()
    one, other = (each.journal.segment(each.plan.chunks[2]) for each in (take, whole))
    assert one.packets == other.packets


def test_latents_before_and_after_its_time_are_held(whole, tmp_path):
    take = take_in(tmp_path, retake(whole, "from: 2.25s, to: 2.75s, seed: 9, prompt: a green square rests"))
    film.render(take)
    differ = [
        (new.video != old.video).flatten(1).any(1) for new, old in zip(latents(take), latents(whole), strict=True)
    ]
    assert torch.cat(differ).nonzero().flatten().tolist() == [9, 10]


def test_a_retake_of_a_retake_keeps_the_first(whole, tmp_path):
    first = take_in(tmp_path / "first", retake(whole))
    film.render(first)
    again = (retake(whole), retake(first, "from: 3s, to: 5s, seed: 2"))
    second, recorder = take_in(tmp_path / "second", *again), Recorder()
    film.render(second, recorder)
    assert recorder.acted("denoise") == [3, 4]
    same = [one == other for one, other in zip(segments(second), segments(first), strict=True)]
    assert same == [True, True, True, False, False, True]


def test_without_retakes_no_key_changes(whole, tmp_path):
    assert take_in(tmp_path).journal._keys == whole.journal._keys


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("from: 3s, to: 9s, seed: 1", r"retakes\[0\] is from 3s to 9s; the film lasts 6 s"),
        ("from: 3s, to: 2s, seed: 1", "it is from 3s to 2s; let it end later than it begins"),
        ("from: 3, to: 4s, seed: 1", r"retakes\[0\].from is 3; 3 is no moment of the scene"),
        ("from: 1s, to: 2s, seed: 1, streams: []", "streams is empty"),
        ("from: 1s, to: 2s", r"retakes\[0\].seed"),
        ("from: 1s, too: 2s, seed: 1", r"retakes\[0\].too .*did you mean to"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(whole, tmp_path, rest, message):
    with pytest.raises(SpecError, match=message):
        take_in(tmp_path / "out", retake(whole, rest))


def test_a_take_that_does_not_hold_the_film_is_refused(whole, tmp_path):
    with pytest.raises(
        SpecError, match=r"does not hold chunk 0 of this film without the retake \(not rendered yet\); render the whole"
    ):
        take_in(tmp_path / "out", f"{{take: {tmp_path}/nothing, from: 1s, to: 2s, seed: 3}}")
    with pytest.raises(SpecError, match="is the output itself"):
        take_in(whole.store.url, retake(whole))
