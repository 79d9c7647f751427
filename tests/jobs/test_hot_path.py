"""What a pass asks of a GPU does not grow, and the device that counts it sees what it must see."""

import pytest
import torch

from longtake.jobs.bench.hot_path import counted, counting
from longtake.jobs.bench.table import BENCHES
from longtake.pipeline.testing.counting_device import CUDA

pytestmark = pytest.mark.xdist_group("hot-path")  # one process counts, for these tests and the bench's

MOST = {
    "host_syncs_per_pass": 0,
    "transfers_in_loop": 0,
    "wan_kernels": 37,
    "wan_elementwise_mb": 1283,
    "wan_casts": 4,
    "wan_kernels_outside": 30,
    "ltx2_kernels": 130,
    "ltx2_elementwise_mb": 1026,
    "ltx2_casts": 0,
    "ltx2_kernels_outside": 127,
    "built_in_kernels": 76,
    "built_in_elementwise_mb": 15.2,
    "built_in_casts": 0,
    "built_in_kernels_outside": 48,
    "ulysses_kernels": 43,
}
"""What each figure may be at most; see docs/performance.md for what it should be. Lower it with every improvement."""


FIGURES = BENCHES["hot-path"].figures


@pytest.fixture(scope="module")
def figures():
    return counted()


@pytest.mark.parametrize("key", MOST)
def test_no_pass_asks_more_of_a_gpu_than_before(figures, key):
    assert figures[key] <= MOST[key]


@pytest.mark.parametrize("key", [key for key, figure in FIGURES.items() if figure.limit is not None])
def test_every_limit_of_the_bench_is_kept(figures, key):
    assert FIGURES[key].kept(figures[key]), f"{key} is {figures[key]}"


@pytest.mark.parametrize(
    ("ask", "counted"),
    [
        (lambda x: x + 1, {"kernels": 1, "elementwise": 1, "elementwise_bytes": 2 * 4 * 6}),
        (lambda x: x.transpose(0, 1)[1:].unsqueeze(0), {"kernels": 0, "views": 3}),
        (lambda x: x.transpose(0, 1).reshape(6), {"kernels": 1, "views": 2}),
        (lambda x: x.bfloat16(), {"kernels": 1, "casts": 1}),
        (lambda x: x @ x.T, {"kernels": 1, "elementwise": 0}),
        (lambda x: torch.nn.functional.rms_norm(x, (3,)), {"kernels": 1}),
        (lambda x: torch.nn.functional.dropout(x, 0.1, training=False), {"kernels": 0}),
        (lambda x: x.sum().item(), {"syncs": 1, "transfers": 1}),
        (lambda x: bool((x > 0).all()), {"syncs": 1}),
        (lambda x: torch.equal(x, x + 1), {"syncs": 1}),
        (lambda x: x[x > 0], {"syncs": 1}),
        (lambda x: x.cpu(), {"syncs": 1, "transfers": 1}),
        (lambda _: torch.ones(3).to(CUDA), {"syncs": 1, "transfers": 1}),
        (lambda _: torch.ones(3).to(CUDA, non_blocking=True), {"syncs": 0, "transfers": 1}),
        (lambda x: x[:, [0, 1]], {"transfers": 1}),
    ],
    ids=[
        *("sum", "views", "copy", "cast", "product", "norm", "dropout", "item", "bool", "equal", "mask", "to the host"),
        *("to the device", "pinned", "index"),
    ],
)
def test_the_device_counts_what_a_gpu_would_do(ask, counted):
    with counting() as device:
        x, before = torch.empty(2, 3, device=CUDA), device.counts()
        ask(x)
        found = device.counts() - before
    assert {name: getattr(found, name) for name in counted} == counted
