"""Guidance per stream: what is switched off costs no pass, and its simplest form is the classifier-free one."""

from typing import ClassVar

import pytest
import torch

from longtake.pipeline.attention.context import QKV, Site
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.limits import ModelDefaults
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.plan import guidance
from longtake.pipeline.sampling.guidance import ClassifierFree, PerStream, Perturbed, StreamScales
from longtake.pipeline.spec import parse_storyboard

SHAPES = {"video": (1, 2, 3, 4, 4), "audio": (1, 5, 6)}
STORYBOARD = "scenes: [{prompt: a red circle rests, duration: 1s}]\nsampling: {guidance: %s}\n"


def velocities(*branches):
    torch.manual_seed(0)
    return {
        branch: {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()} for branch in branches
    }


def streams(sigma=0.5):
    return {
        name: Stream(torch.randn(shape, dtype=torch.float64), torch.full(shape[:2], sigma), torch.zeros(shape[1]))
        for name, shape in SHAPES.items()
    }


def test_scales_for_the_prompt_alone_are_classifier_free_guidance():
    of, scales = velocities("guided", "unguided"), StreamScales(prompt=3.0)
    ours = PerStream({"video": scales, "audio": scales}).combine(of, streams())
    expected = ClassifierFree(3.0).combine(of, streams())
    assert all(float((ours[name] - expected[name]).abs().max()) <= 1e-14 for name in SHAPES)


def test_one_stream_is_guided_without_the_other():
    of = velocities("guided", "modality")
    ours = PerStream({"video": StreamScales(modality=2.0), "audio": StreamScales()}).combine(of, streams())
    assert torch.equal(ours["audio"], of["guided"]["audio"])
    assert torch.allclose(ours["video"], 2 * of["guided"]["video"] - of["modality"]["video"])


def test_rescaled_clean_latents_spread_as_those_of_the_guided_pass():
    of, given = velocities("guided", "unguided"), streams()
    scales = StreamScales(prompt=5.0, rescale=1.0)
    ours = PerStream({"video": scales, "audio": scales}).combine(of, given)
    for name, stream in given.items():
        spreads = [(stream.latents - 0.5 * x[name]).std() for x in (ours, of["guided"])]
        assert float(spreads[0] / spreads[1]) == pytest.approx(1, abs=1e-12)


def test_clean_latents_among_noisy_ones_are_left_out_of_the_division_by_their_noise_level():
    of, given = velocities("guided", "unguided"), streams()
    given["video"].sigma[:, 0] = 0
    scales = StreamScales(prompt=5.0, rescale=0.5)
    ours = PerStream({"video": scales, "audio": scales}).combine(of, given)
    assert bool(ours["video"].isfinite().all())


@pytest.mark.parametrize(
    ("form", "branches"),
    [
        ("1", ("guided",)),
        ("3", ("guided", "unguided")),
        ("{video: 1, audio: 1}", ("guided",)),
        ("{video: 1, audio: 7}", ("guided", "unguided")),
        ("{video: 1, audio: 1, modality: 3}", ("guided", "modality")),
        ("{stg: 1, stg_blocks: [28]}", ("guided", "unguided", "stg")),
        ("{modality: 3, stg: 1, stg_blocks: [28], rescale: 0.7}", ("guided", "unguided", "stg", "modality")),
    ],
)
def test_a_storyboard_has_as_many_passes_as_it_guides_by(form, branches):
    assert guidance(parse_storyboard(STORYBOARD % form, ()).sampling, ModelDefaults()).branches == branches


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("{video: 500}", "video is 500; use a number from 0 to 100"),
        ("{picture: 3}", "picture .* is not a known key; known here: video, audio"),
        ("much", "use a number from 0 to 100, or scales for each stream"),
        ("{stg: 1}", r"\{'stg': 1\}; stg is 1 and stg_blocks names no block"),
    ],
)
def test_guidance_that_means_nothing_is_refused(form, message):
    with pytest.raises(SpecError, match=rf"sampling.guidance is .*{message}"):
        parse_storyboard(STORYBOARD % form, ())


class Answering:
    """A context that returns ones for every query."""

    calls: ClassVar[list[Site]] = []

    def attend(self, site, streams, positions):
        self.calls.append(site)
        return {name: torch.ones_like(qkv.q) for name, qkv in streams.items() if qkv.q is not None}


@pytest.mark.parametrize(
    ("branch", "site", "output"),
    [
        ("guided", Site(1, "a2v"), 1.0),
        ("modality", Site(1, "a2v"), None),
        ("modality", Site(1, "video_self"), 1.0),
        ("stg", Site(1, "video_self"), 5.0),
        ("stg", Site(0, "video_self"), 1.0),
        ("stg", Site(1, "a2v"), 1.0),
    ],
)
def test_a_perturbed_pass_is_broken_where_it_should_be_and_attends_everywhere(branch, site, output):
    of, inner = PerStream({}, stg_layers=[1]), Answering()
    q = torch.zeros(1, 2, 3, 4)
    context = of.context(branch, inner)
    found = context.attend(site, {"video": QKV(q, q, q + 5)}, {}).get("video")
    assert inner.calls[-1] == site
    assert isinstance(context, Perturbed) is (branch != "guided")
    assert (None if found is None else float(found.mean())) == output
