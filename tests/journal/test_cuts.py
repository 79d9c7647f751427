"""A cut begins a new chain of keys: what is kept behind an edit equals a film that was never edited, bit for bit."""

import json
from dataclasses import replace

import pytest
import yaml

from longtake.pipeline import film
from longtake.pipeline.journal.journal import latents_to_bytes, segment_to_bytes
from longtake.pipeline.journal.keys import film_keys
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from tests.tiny_take import Recorder

PROMPTS = ("a red circle bounces fast", "a blue square rests", "a green triangle glides")
FLASHY = "a yellow circle bounces"
LAGGING = replace(TINY, audio_lag=0.75)


def model_of(config=TINY, rollout=None):
    model = EmbeddedModel.untrained(config)
    if rollout is not None:
        model.rollout = rollout
    return model


def storyboard(shots, fps=16, **more):
    scenes = [{"prompt": prompt, "duration": f"{frames}f", "transition": how} for prompt, frames, how in shots]
    written = {"model": "tiny", "seed": 11, "sampling": {"steps": 1, "guidance": 1}, "scenes": scenes, **more}
    return parse_storyboard(yaml.safe_dump({**written, "video": {"width": 16, "height": 16, "fps": fps}}))


def shots(count, frames):
    return [(PROMPTS[number % 3], frames, "cut") for number in range(count)]


def edited(shots, number, prompt=FLASHY):
    return [(prompt if index == number else old, *rest) for index, (old, *rest) in enumerate(shots)]


def opened(spec, model, store):
    return open_take(plan_film(spec, model), model, store, numerics(model))


def render(spec, model, store, observer=SILENT):
    return film.render(opened(spec, model, store), observer)


def content(spec, model, store):
    take = opened(spec, model, store)
    chunks = [(take.journal.latents(chunk), take.journal.segment(chunk)) for chunk in take.plan.chunks]
    return [(latents_to_bytes(latents), segment_to_bytes(segment)) for latents, segment in chunks]


def assert_rendered_again(before, after, model, chunks):
    """Rendering `after` over `before` renders `chunks` only, and gives what rendering `after` alone gives."""
    store, whole, recorder = Store(f"memory://cuts-{id(before)}"), Store(f"memory://whole-{id(before)}"), Recorder()
    render(before, model, store)
    wanted = [chunk.index for chunk in plan_film(after, model).chunks if chunks(chunk)]
    take = opened(after, model, store)
    assert take.journal.num_kept("segments") == len(take.plan.chunks) - len(wanted)
    render(after, model, store, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == wanted
    render(after, model, whole)
    assert content(after, model, store) == content(after, model, whole)
    assert store.get("film.mp4") == whole.get("film.mp4")


def test_editing_one_of_ten_shots_renders_its_chunks_alone():
    before = [(prompt, 20 if number % 8 == 1 else 12, how) for number, (prompt, _, how) in enumerate(shots(10, 12))]
    assert_rendered_again(storyboard(before), storyboard(edited(before, 1)), model_of(), lambda chunk: chunk.scene == 1)


CASES = {
    "borders within frames and latents": (model_of(), {"fps": "24000/1001"}),
    "sound that lags": (model_of(LAGGING), {}),
    "continuation": (model_of(rollout=Continuation(2)), {}),
    "guidance": (model_of(), {"sampling": {"steps": 2, "solver": "renoise", "guidance": 3}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_section_depends_on_nothing_before_its_cut(case):
    model, settings = CASES[case]
    before = [*shots(2, frames=21), (PROMPTS[2], 18, "continue"), *shots(1, frames=34)]
    after = edited(before, 1)
    assert_rendered_again(
        storyboard(before, **settings),
        storyboard(after, **settings),
        model,
        lambda chunk: chunk.scene in (1, 2),
    )


def test_a_film_that_is_continued_touches_the_first_section_only():
    spec = storyboard([(PROMPTS[0], 20, "continue"), *shots(1, frames=20)], continue_from="before.mp4")
    chunks = plan_film(spec, model_of()).chunks
    one, other = (film_keys(spec, chunks, {"given": {"continue_from": digest}}).latents for digest in ("one", "other"))
    assert [a.key == b.key for a, b in zip(one, other, strict=True)] == [chunk.scene == 1 for chunk in chunks]


def test_the_last_bits_depend_on_the_page_size_which_is_part_of_the_keys():
    model, short = model_of(), [(PROMPTS[0], 8, "continue")] * 6
    alone, longer = storyboard(short), storyboard([*short, *shots(1, frames=16)])
    stores = [Store("memory://pages-alone"), Store("memory://pages-longer")]
    for spec, store in zip((alone, longer), stores, strict=True):
        render(spec, model, store)
    small, large = content(alone, model, stores[0]), content(longer, model, stores[1])
    assert small[5][0] != large[5][0], "attention over pages that are not full is merged from parts"
    journal = opened(longer, model, stores[0]).journal
    assert journal.kept("latents") == []
    assert journal.why_not("latents", 0) == "longest pass was [2, 10], is None"


def test_the_unbroken_chain_is_that_of_earlier_versions():
    spec = storyboard(shots(2, frames=20))
    keys = film_keys(spec, plan_film(spec, model_of()).chunks, {"weights": "w"})
    assert keys.latents[-1].unbroken == "81a1b6f8c440ae0448f53a4f7d405755bfd1c660e12b5bae326c0a3ef244d2f9"
    assert keys.segments[-1].unbroken == "c3559479df38a98202fcec46dfcddfe81c3c0ff56d7899af8d591202e7cd89af"
    assert keys.latents[0].unbroken == keys.latents[0].key, "the first section begins as it always did"


@pytest.mark.parametrize("unbroken", [False, True])
def test_what_was_rendered_before_the_arithmetic_was_recorded_is_kept_unless_other_parts_differ(unbroken):
    spec, model, store = storyboard(shots(2, frames=20)), model_of(), Store(f"memory://unrecorded{unbroken}")
    numbers = dict(numerics(model))
    earlier = {name: part for name, part in numbers.items() if name != "cpu arithmetic"}
    plan = plan_film(spec, model)
    was, now = film_keys(spec, plan.chunks, earlier), film_keys(spec, plan.chunks, numbers)
    for old, new in zip((*was.latents, *was.segments), (*now.latents, *now.segments), strict=True):
        assert old.key != new.key
        assert {old.key, old.unbroken} <= set(new.accepted)
    other = film_keys(spec, plan.chunks, {**numbers, "threads": 99})
    assert was.latents[0].key not in other.latents[0].accepted
    render(spec, model, store)
    for kind, keys, olds in (("latents", now.latents, was.latents), ("segments", now.segments, was.segments)):
        for index, (key, old) in enumerate(zip(keys, olds, strict=True)):
            name = f"journal/{kind}/{index:05d}.json"
            text = store.get(name).replace(key.key.encode(), (old.unbroken if unbroken else old.key).encode())
            manifest = json.loads(text)
            manifest["parts"].pop("cpu arithmetic", None)
            store.put(name, json.dumps(manifest).encode())
    recorder = Recorder()
    render(spec, model, store, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == []
    faster = open_take(plan, model, store, {**numbers, "cpu arithmetic": "another", "threads": 99})
    why = faster.journal.why_not("latents", 0)
    assert "threads was" in why
    assert "arithmetic" not in why, "what an earlier version did not record is no reason"


def test_a_journal_of_an_earlier_version_is_resumed():
    spec, model, store, recorder = storyboard(shots(2, frames=20)), model_of(), Store("memory://earlier"), Recorder()
    render(spec, model, store)
    take = opened(spec, model, store)
    keys = film_keys(spec, take.plan.chunks, dict(take.numerics))
    for kind, of_kind in (("latents", keys.latents), ("segments", keys.segments)):
        for index, key in enumerate(of_kind):
            name = f"journal/{kind}/{index:05d}.json"
            written = store.get(name)
            assert key.key.encode() in written
            store.put(name, written.replace(key.key.encode(), key.unbroken.encode()))
    render(spec, model, store, recorder)
    assert recorder.acted("denoise") == recorder.acted("encode") == []
