"""The registry of training tasks."""

from fractions import Fraction

from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.embedded import SECOND_WORLD, EmbeddedModel
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.training.clips import ClipFolder, ClipFormat
from longtake.pipeline.training.codec import CodecOptions, CodecTask
from longtake.pipeline.training.data import World
from longtake.pipeline.training.denoiser import DenoiserOptions, DenoiserTask
from longtake.pipeline.training.lora import LoraTask, chosen_layers, lora_options
from longtake.pipeline.training.options import read_options
from longtake.pipeline.training.second_world.clips import SecondWorld
from longtake.pipeline.training.source import ClipSource
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import TrainTask
from longtake.pipeline.training.textures import MotionOptions
from longtake.pipeline.training.upscaler import UpscalerOptions, UpscalerTask
from longtake.pipeline.training.world import FPS
from longtake.pipeline.weights.load import EMBEDDED, EMBEDDED_UPSCALERS, load_model, load_upscaler


def build_task(spec: TrainSpec) -> TrainTask:
    """The task of `spec.stage`, on the model that it starts from."""
    if spec.stage == "upscaler":
        return UpscalerTask(spec, load_upscaler(spec.start) if spec.start else _untrained_upscaler(spec))
    if spec.stage == "lora":
        options, _ = lora_options(spec)
        model = load_model(spec.start or spec.model)
        if spec.data is None and model.name == SECOND_WORLD.name:
            raise SpecError(f"data is missing; a LoRA of {model.name} learns from clips, add --data CLIPS")
        taught = World(options.colour) if spec.data is None else _source(spec, model)
        return LoraTask(spec, model, taught, _world(model))
    model = load_model(spec.start) if spec.start else EmbeddedModel.untrained(EMBEDDED[spec.model], spec.seed)
    source = _source(spec, model)
    match spec.stage:
        case "codec":
            return CodecTask(spec, model, source)
        case "denoiser" | "rollout":
            return DenoiserTask(spec, model, source)


def check_options(spec: TrainSpec) -> None:
    """Raise `SpecError` for options that the stage cannot use, before workers are started."""
    match spec.stage:
        case "lora":
            options, _ = lora_options(spec)
            chosen_layers(load_model(spec.start or spec.model), options.layers)
        case "codec":
            read_options(spec.options, CodecOptions)
        case "denoiser" | "rollout":
            read_options(spec.options, DenoiserOptions)
        case "upscaler":
            read_options(spec.options, UpscalerOptions, MotionOptions)


def _untrained_upscaler(spec: TrainSpec) -> Upscaler:
    if spec.model not in EMBEDDED_UPSCALERS:
        raise SpecError(f"model is {spec.model!r}; this stage trains {' or '.join(EMBEDDED_UPSCALERS)}")
    return Upscaler.untrained(EMBEDDED_UPSCALERS[spec.model], spec.seed)


def _source(spec: TrainSpec, model: EmbeddedModel) -> ClipSource:
    """The clips at `spec.data` in the model's size and rate, or the world of the model without `data`.

    Raises:
        SpecError: the text encoder cannot read a caption.
    """
    if spec.data is None:
        return _world(model)
    clips = ClipFolder(spec.data, _format_of(model))
    if spec.stage != "codec":
        mistakes = []
        for prompt in sorted(clips.prompts):
            try:
                model.text.tokenize(prompt)
            except SpecError as error:
                mistakes.append(f"data: {error}")
        if mistakes:
            raise SpecError("\n".join(mistakes))
    return clips


def _world(model: EmbeddedModel) -> ClipSource:
    return SecondWorld() if model.name == SECOND_WORLD.name else World()


def _format_of(model: EmbeddedModel) -> ClipFormat:
    size, sound = model.defaults, model.config.sound_codec
    return ClipFormat(Fraction(FPS), size.width, size.height, sound.sample_rate, sound.channels)
