"""Where Ray places a gang, and what each stage asks for."""

import pytest
import torch

from longtake.actors.gang import GPU_DOMAIN, placement
from longtake.actors.pool_config import PoolConfig
from longtake.actors.stage_actor import StageActor, TakeConfig
from longtake.pipeline.errors import CapacityError
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.registry import STAGES
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.weights.options import LoadOptions


def node(cpus, gpus=0, domain=None, alive=True):
    return {
        "Alive": alive,
        "Labels": {} if domain is None else {GPU_DOMAIN: domain},
        "Resources": {"CPU": cpus, "GPU": gpus},
    }


CUDA = LoadOptions(device=torch.device("cuda"))
RANKS = [{"CPU": 1, "GPU": 0.7}] * 8


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(4, 4), node(16, 8)], {"strategy": "STRICT_PACK"}),
        ([node(4, 4), node(16, 8, alive=False)], {"strategy": "PACK"}),
        ([node(16, 2)], {"strategy": "PACK"}),
        ([node(4, 4, "a"), node(4, 4, "a")], {"topology_strategy": {GPU_DOMAIN: "STRICT_PACK"}}),
        ([node(4, 4, "a"), node(4, 4, "b")], {"strategy": "PACK"}),
    ],
)
def test_a_gang_is_kept_as_close_as_the_cluster_allows(nodes, expected):
    assert placement(RANKS, nodes) == expected


def test_on_gpus_every_rank_decoder_and_upscaler_is_declared_to_ray():
    config = PoolConfig.of(degrees=Degrees(ulysses=2), gangs=2, acts=tuple(STAGES), load=CUDA)
    assert {act: config.resources.bundle(act).get("GPU", 0) for act in STAGES} == {
        "embed": 0, "denoise": 0.7, "decode": 0.2, "upscale": 0.1, "encode": 0, "publish": 0,
    }  # fmt: skip
    assert config.resources.num_gpus == pytest.approx(4 * 0.7 + 0.3)
    assert PoolConfig.of(acts=tuple(STAGES)).resources.num_gpus == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_actor_that_finds_no_gpu_says_so_before_it_loads_a_model(tmp_path):
    storyboard = parse_storyboard("{model: tiny, scenes: [{prompt: a red circle rests, duration: 1s}]}")
    config = TakeConfig(storyboard, str(tmp_path), {}, 1, load=CUDA)
    assert config.load_for("embed").device.type == "cpu"
    with pytest.raises(CapacityError, match="finds no GPU"):
        StageActor("decode", None, 0).open(config)
