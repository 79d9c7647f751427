"""The same weights under another rollout render another film, and the journal's keys tell."""

from dataclasses import replace

import pytest

from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Causal, Continuation


def parts_of(rollout=EmbeddedModel.rollout, **settings):
    model = EmbeddedModel.untrained(replace(TINY, **settings))
    model.rollout = rollout
    return numerics(model)


@pytest.mark.parametrize("settings", [{"window": 2}, {"sink": 0}, {"audio_lag": 0.5}], ids=str)
def test_another_context_or_lag_is_told(settings):
    assert parts_of(**settings)["weights"] == parts_of()["weights"]
    assert parts_of(**settings) != parts_of()


def test_another_rollout_or_overlap_is_told():
    rollouts = (Causal(), Continuation(3), Continuation(5), Continuation(5, clean=False))
    assert len({parts_of(rollout)["rollout"] for rollout in rollouts}) == len(rollouts)
