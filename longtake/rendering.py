"""Render a storyboard from Python."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import yaml

from longtake.actors.load_options import load_options, resolve_device
from longtake.actors.rendering import GangSpec, RenderOptions as Options, open_render, render as render_take
from longtake.options import check_known
from longtake.pipeline.errors import SpecError
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.spec import Storyboard, load_storyboard, located, parse_storyboard
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take

Source = str | os.PathLike[str] | Mapping[str, Any] | Storyboard
"""A storyboard: a path or fsspec URL, its content as a mapping, or a parsed one."""


class RenderOptions(TypedDict, total=False):
    """Options of `render` and `stream`; they mean the same as the flags of `longtake render`.

    Attributes:
        overrides: values to override, such as `["seed=8", "sampling.steps=4"]`.
        model: overrides the storyboard's model: a name, file, folder, Hugging Face repository or URL.
        accelerate: overrides the storyboard's `sampling.accelerate`: a method's name, the file of a calibrated plan, a
            mapping, or a list of these.
        in_process: render in this process, without Ray.
        address: of a Ray cluster to join.
        fresh: if the output holds a take already, render into a new folder next to it.
        replace: overwrite a finished film of which less than half would be kept.
        any_size: also render sizes that the model was not trained on.
        threads: compute threads of each process; changes the bits.
        device: "cpu", "cuda", or "auto" (default): "cuda" if there is a GPU where the film is rendered.
        dtype: "float32", "bfloat16" or "float16"; changes the bits.
        quantize: "int8" or "float8"; changes the bits.
        offload: "layers", "encoder" or "auto": what is not kept in memory.
        compile: "blocks": PyTorch compiles the denoiser's blocks; "none"; or "auto" (default): "blocks" on a GPU;
            changes the bits.
        numerics: "exact": only processors that compute the same bits take part and resume; "relaxed": any.
        ranks, ulysses, ring, cfg: the ranks of a gang, and how they share a chunk; changes the bits.
        gangs: gangs that render independent scenes in parallel.
        budget_mib: memory limit for the chunks in flight.
        chunk_deadline_s: an actor that works on one chunk for longer is replaced.
        nodes_s: how long to wait for nodes that an autoscaler has yet to start.
    """

    overrides: Sequence[str]
    model: str
    accelerate: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    in_process: bool
    address: str
    fresh: bool
    replace: bool
    any_size: bool
    threads: int
    device: str
    dtype: str
    quantize: str
    offload: str
    numerics: str
    compile: str
    ranks: int
    ulysses: int
    ring: int
    cfg: int
    gangs: int
    budget_mib: int
    chunk_deadline_s: float
    nodes_s: float


_GANG = ("ranks", "ulysses", "ring", "cfg", "gangs")
_RUN = ("fresh", "replace", "any_size", "in_process", "threads", "address", "budget_mib", "chunk_deadline_s", "nodes_s")


def render(
    storyboard: Source,
    output: str | os.PathLike[str],
    *,
    observer: Observer = SILENT,
    **options: Unpack[RenderOptions],
) -> Film:
    """Render a film, or resume it: finished chunks whose inputs have not changed are reused, bit for bit.

    A film that is finished already is returned at once.

    Args:
        storyboard: a path or fsspec URL, its content as a mapping, or a parsed one. Files in a mapping are relative to
            the working directory.
        output: the folder for film, live playlist and journal: a path or fsspec URL.
        observer: its `event(name, **fields)` receives every event, such as `denoise.chunk` with `chunk`, `scene` and
            `seconds`. An error that it raises ends the render and is raised here.
        options: see `RenderOptions`.

    Returns:
        The film: `url`, `playlist_url`, `num_frames`, `num_samples`, `duration_s`.

    Raises:
        SpecError: the storyboard or an option is wrong; nothing was written.
        WeightsError: the model cannot be opened.
        JournalError: another process is rendering into the same place.
        LongtakeError: any other failure; finished chunks are kept.
    """
    take, resolved = prepare(storyboard, output, options)
    return take.published() or render_take(take, resolved, observer)


def prepare(storyboard: Source, output: str | os.PathLike[str], options: RenderOptions) -> tuple[Take, Options]:
    """The opened take, and the options in the form that the render takes them."""
    check_known(options, RenderOptions.__annotations__)
    overrides = tuple(options.get("overrides", ()))
    if "model" in options:
        overrides = (f"model={yaml.safe_dump(options['model']).splitlines()[0]}", *overrides)
    values: Mapping[str, Any] = options
    if "accelerate" in options:
        overrides = (f"sampling.accelerate={json.dumps(options['accelerate'])}", *overrides)
    gang = GangSpec(**{name: values[name] for name in _GANG if name in values})
    load = load_options(
        options.get("dtype"),
        options.get("quantize"),
        resolve_device(
            options.get("device", "auto"),
            in_process=options.get("in_process", False),
            address=options.get("address"),
        ),
        options.get("offload", "none"),
        options.get("numerics", "exact"),
        options.get("compile", "auto"),
    )
    resolved = Options(gang=gang, load=load, **{name: values[name] for name in _RUN if name in values})
    return open_render(read_storyboard(storyboard, overrides), os.fspath(output), resolved), resolved


def read_storyboard(storyboard: Source, overrides: Sequence[str] = ()) -> Storyboard:
    """The storyboard, checked. Raises `SpecError` with a line for each mistake."""
    if isinstance(storyboard, Storyboard):
        if overrides:
            raise SpecError("a parsed storyboard cannot be overridden; pass its path or its content as a mapping")
        return storyboard
    if isinstance(storyboard, Mapping):
        try:
            text = yaml.safe_dump(dict(storyboard), sort_keys=False)
        except yaml.YAMLError as error:
            raise SpecError(f"the storyboard holds a value that YAML cannot hold: {error}") from None
        return located(parse_storyboard(text, overrides), str(Path.cwd() / "storyboard"))
    if not isinstance(storyboard, str | os.PathLike):
        raise SpecError(f"the storyboard is {storyboard!r}; pass a path, a URL, a mapping or a Storyboard")
    return load_storyboard(os.fspath(storyboard), overrides)
