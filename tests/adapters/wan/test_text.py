"""Prompts are embedded as by diffusers' pipeline, once for each denoiser."""

import pytest
import torch

from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions

PROMPTS = ["a red circle", "", "  a \n red&amp;amp;blue\tcircle ", "circle " * 511]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    found = {}
    for kind in ("2.1", "a14b"):
        pipeline = tiny_pipeline(kind)
        model = open_folder(save(pipeline, tmp_path_factory.mktemp("wan") / kind), LoadOptions())
        found[kind] = (pipeline, model)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("prompt", PROMPTS, ids=["words", "none", "spaces and entities", "as long as may be"])
@pytest.mark.parametrize("kind", ["2.1", "a14b"])
def test_a_prompt_is_embedded_as_diffusers_does(pipelines, kind, prompt):
    pipeline, model = pipelines[kind]
    encoded, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    experts = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
    expected = torch.cat([one.condition_embedder.text_embedder(encoded[0]) for one in experts], dim=-1)
    got = model.text.embed(prompt)
    assert got.shape == (512, 24 * len(experts))
    assert (got - expected).abs().max() <= 1e-6
    assert expected.std() > 0.1


@torch.inference_mode()
def test_html_entities_are_decoded(pipelines):
    _, model = pipelines["2.1"]
    assert torch.equal(model.text.embed("red &amp;amp; blue"), model.text.embed("red & blue"))
    assert not torch.equal(model.text.embed("red & blue"), model.text.embed("red blue"))
