"""All benches: their figures with limits, and the functions that measure them.

A target is "module:name" and is imported when the bench runs, so listing the figures needs neither torch nor Ray. A new
bench is one file in this folder and one entry here.
"""

from collections.abc import Mapping

from longtake.jobs.bench.figures import Bench, Figure

_SAME_AS_DIFFUSERS = (
    *("wan_2_1", "wan_2_1_euler", "wan_2_1_no_guidance", "wan_2_2_a14b", "wan_2_2_5b", "wan_2_2_5b_image"),
    *("ltx2_no_stg", "ltx2_3", "ltx2_by_size", "ltx2_no_guidance", "ltx2_image", "ltx2_3_image"),
)
_HELD = "docs/decisions/2026-11-30-the-first-latent-is-held.md"
_UNLIKE_DIFFUSERS: Mapping[str, str] = {
    "wan_2_1_image": _HELD,
    "wan_2_2_a14b_image": _HELD,
    "ltx2": "docs/decisions/2026-11-30-settings-of-published-models.md",
}
"""The cases of `parity-road`; of these, the page that says why they differ."""

_MOST_KERNELS = {"wan": 40, "ltx2": 140, "built_in": 80}
_OF_A_LAYER = {
    "elementwise": Figure("those that are no matrix product and no attention"),
    "elementwise_mb": Figure("megabytes that those read and write"),
    "casts": Figure("those that only change the dtype"),
    "views": Figure("operations of one layer that start no kernel"),
    "kernels_outside": Figure("kernels of a pass outside its layers"),
}
_OF_THEIRS = {
    "kernels_diffusers": Figure("kernels of one layer of diffusers' own pass"),
    "kernels_vs_diffusers": Figure("kernels of one layer of ours over those", at_most=1.0),
    "elementwise_mb_diffusers": Figure("megabytes of its elementwise kernels"),
}
"""Figures of `hot-path` for each family, and those of diffusers' pass next to it."""

_TOLD_OF_A_GROUND = {"tone": "dark or light", "pattern": "its pattern", "camera": "the camera", "light": "the light"}
_OF_A_READER: Mapping[str, Figure] = {
    **{
        f"{attribute}_accuracy": Figure(f"share of clips in which the picture tells {what}", at_least=0.99)
        for attribute, what in _TOLD_OF_A_GROUND.items()
    },
    "bed_accuracy": Figure("share of clips in which the sound tells the ground's pattern", at_least=0.99),
    "colour_accuracy": Figure("share of clips in which the colours of all shapes are found", at_least=0.99),
    "shape_accuracy": Figure("share of found colours whose shape is right", at_least=0.99),
    "size_accuracy": Figure("the same for the size", at_least=0.99),
    "motion_accuracy": Figure("the same for the motion", at_least=0.99),
    "timbre_accuracy": Figure("share of heard events whose timbre is that of the shape", at_least=0.99),
    "path_error_px": Figure("median distance from the true path, by colour, in pixels of a still camera", at_most=0.1),
    "path_error_p99_px": Figure("99th percentile, crossings and shapes in walls included", at_most=1.0),
    "mask_iou": Figure("mean overlap of read and true masks over their union", at_least=0.95),
    "camera_error_px": Figure("95th percentile of the largest error of the room's edges in a clip", at_most=0.5),
    "seen_f1": Figure("F1 of the events that the picture shows, by colour, within 62.5 ms", at_least=0.95),
    "seen_error_ms": Figure("median absolute error of their times", at_most=5),
    "heard_f1": Figure("F1 of the events that are heard, by colour, within 62.5 ms", at_least=0.95),
    "heard_error_ms": Figure("median absolute error of their times", at_most=5),
    "heard_place_error_px": Figure("median error of the places from which they are heard", at_most=2),
    "sync_f1": Figure("F1 of seen and heard events, by colour: what a perfect model would reach", at_least=0.92),
}
_OF_A_READER_CODED: Mapping[str, Figure] = {
    **{key: Figure("the same through H.264 and AAC", it.at_most, it.at_least) for key, it in _OF_A_READER.items()},
    "mask_iou": Figure("the same through H.264, which halves the resolution of colour", at_least=0.88),
}
"""Figures of `world` for clips as drawn, and for clips through the codecs."""

_STEP_PLANS = (
    *("freeze", "guidance_interval", "guidance_difference", "reuse", "taylorseer", "taylorseer_3", "spectrum"),
    *("delta_dit", "faster_diffusion", "teacache", "easycache", "fbcache", "dbcache", "careful", "stacked"),
    *("fewer_16", "fewer_12", "fewer_8"),
)
_OF_A_STEP_PLAN = {
    "work": "share of the tokens and blocks of 24 steps that it computes, in chunks with a past",
    "wall": "CPU time over that of all 24 steps in the same run",
    "video_error": "relative error of the picture's latents",
    "audio_error": "relative error of the sound's latents",
    "psnr_db": "PSNR of its frames to those of all steps",
}
"""Figures of `accelerate` for each plan, and for fewer steps."""

BENCHES: Mapping[str, Bench] = {
    "accelerate": Bench(
        {
            **{
                f"{plan}_{figure}": Figure(f"{plan.replace('_', ' ')}: {meaning}")
                for plan in _STEP_PLANS
                for figure, meaning in _OF_A_STEP_PLAN.items()
            },
            "stacked_video_error": Figure("the same for the best plan of a third of the work", at_most=0.1),
            "stacked_audio_error": Figure("relative error of the sound's latents with it", at_most=0.15),
            "stacked_passes": Figure("share of the work that it computes", at_most=1 / 3),
            "wall_share": Figure("CPU time that it saves over the work that it saves", at_least=0.85),
            "beats_fewer_steps": Figure("1 if each plan that is shipped is nearer than fewer steps", at_least=1),
            **{
                f"{kind}_{figure}": Figure(f"{meaning}, {kind}")
                for kind in ("reference", "stacked", "fewer")
                for figure, meaning in (
                    ("prompt_accuracy", "films that match their prompt"),
                    ("onset_f1", "F1 of sound onsets and wall hits within 62.5 ms"),
                    ("offset_ms", "absolute value of the median offset of sound against picture"),
                )
            },
            "prompt_accuracy_lost": Figure("prompt accuracy of all steps less that of the plan", at_most=0.02),
            "onset_f1_lost": Figure("the same for the onsets", at_most=0.02),
            "long_seam_ratio": Figure("change between frames at chunk borders over other borders", at_most=1.05),
            "long_std_drift": Figure("change of contrast over a long film with the plan", at_most=0.1),
            "long_saturation_drift": Figure("change of saturation", at_most=0.1),
        },
        "longtake.jobs.bench.accelerate:measure",
        repeats=1,
    ),
    "batch": Bench(
        {
            "not_done": Figure(
                "takes that should have been rendered and were not, of 197 (21 with --quick)", at_most=0
            ),
            "quarantined": Figure("takes given up: one impossible, one deadly, one whose store raises", at_least=3),
            "overhead_per_take_s": Figure("median seconds of a take in which no stage was working", at_most=0.3),
            "seconds_per_take": Figure("median seconds of a take in its gang"),
            "second_run_s": Figure("seconds of the same command when nothing is left to do, start to end", at_most=5),
            "done_twice": Figure("takes that the second run rendered again", at_most=0),
        },
        "longtake.jobs.bench.batch:measure",
        repeats=1,
    ),
    "beside-diffusers": Bench(
        {
            "vs_diffusers_clip": Figure("seconds of diffusers' LTX-2 pipeline for one clip over ours", at_least=1.0),
            "vs_diffusers_long": Figure(
                "seconds of its windows over those of our segments, four clips long", at_least=1.0
            ),
            "vs_diffusers_causal": Figure(
                "seconds of its windows over those of our causal film of that length, decoded in batches", at_least=1.0
            ),
            "vs_diffusers_watched": Figure("the same for a causal film that can be watched: decoded chunk by chunk"),
        },
        "longtake.jobs.bench.beside_diffusers:measure",
        repeats=1,
    ),
    "chaos": Bench(
        {
            "faults": Figure(
                "ranks, stages, nodes and drivers that were killed, stopped, terminated or drained during renders"
            ),
            "films_identical": Figure("share of films that equal the undisturbed film bit for bit", at_least=1),
            "max_chunks_lost": Figure("largest number of finished chunks denoised again after one fault", at_most=1),
            "restart_s": Figure(
                "median seconds from a fault until two more chunks are published; a stopped actor is replaced after ten"
                " times its longest chunk"
            ),
            "longest_restart_s": Figure("largest of these"),
        },
        "longtake.jobs.bench.chaos:measure",
        repeats=1,
    ),
    "endless": Bench(
        {
            "chunk_time_growth": Figure("median time of the last 50 chunks over that of chunks 20-70", at_most=1.05),
            "chunk_time_p95": Figure("95th percentile of chunk time over its median, cache refreshes included"),
            "chunk_time_s": Figure("median seconds of a chunk in all stages"),
            "memory_growth": Figure(
                "resident bytes after the last chunk over those after chunk 50, minus 1", at_most=0.02
            ),
        },
        "longtake.jobs.bench.endless:measure",
    ),
    "fidelity": Bench(
        {
            "codec_psnr_db": Figure("mean PSNR of held-out clips after the video codec", at_least=30),
            "sound_log_mel_error": Figure("mean difference of log mel levels after the sound codec, in dB"),
            "prompt_accuracy": Figure(
                "films whose colour, shape, background and motion match the prompt", at_least=0.9
            ),
            "prompt_accuracy_held_out": Figure("the same for held-out captions"),
            "prompt_accuracy_apart": Figure("the same without attention between picture and sound", at_least=0.8),
            "teleports_per_min": Figure("jumps of the shape by more than 8 pixels, per minute"),
            "onset_f1": Figure("F1 of sound onsets and wall hits within 62.5 ms", at_least=0.65),
            "onset_f1_shifted": Figure("the same with the sound shifted by half a film, which is chance", at_most=0.25),
            "onset_f1_slow": Figure("F1 for slow prompts"),
            "onset_f1_fast": Figure("F1 for fast prompts"),
            "onset_f1_held_out": Figure("F1 for held-out captions"),
            "onset_f1_40ms": Figure("F1 within 40 ms"),
            "onset_f1_apart": Figure("F1 without attention between picture and sound"),
            "onset_f1_apart_shifted": Figure("the same with shifted sound, which is chance"),
            "silent_onsets_per_min": Figure("sound onsets per minute for prompts that ask for silence"),
            "offset_ms": Figure("absolute value of the median offset of sound against picture", at_most=16),
            "offset_ms_shifted": Figure("the same with shifted sound"),
            "offset_abs_ms": Figure("median absolute offset", at_most=24),
            "offset_abs_ms_shifted": Figure("the same with shifted sound"),
            "sync_drift_ms_per_min": Figure("growth of the offset per minute over the long films, pooled", at_most=5),
            "seam_ratio": Figure("change between frames at chunk borders over other latents' borders", at_most=1.05),
            "seam_ratio_truth": Figure("the same for true clips after the codec"),
            "std_drift_1min": Figure("largest change of contrast, one-minute films", at_most=0.05),
            "saturation_drift_1min": Figure("largest change of saturation, one-minute films", at_most=0.05),
            "std_drift_10min": Figure("change of contrast over ten minutes", at_most=0.1),
            "saturation_drift_10min": Figure("change of saturation over ten minutes", at_most=0.1),
            "realtime_factor": Figure("seconds of film per second of the whole pipeline in one process", at_least=1),
        },
        "longtake.jobs.bench.fidelity:measure",
        repeats=1,
    ),
    "fuzz-footage": Bench(
        {
            "files": Figure("mutated files, each read as upscale, inspect, audio, image and continue_from read it"),
            "read": Figure("times that a file was read in spite of its faults"),
            "refused": Figure("times that a file was refused by a sentence"),
            "faults": Figure("crashes, hangs, errors without a sentence, and memory without a bound", at_most=0),
        },
        "longtake.jobs.bench.fuzz_footage:measure",
        repeats=1,
    ),
    "gpu": Bench(
        {
            "matmul_tflops": Figure("TFLOP/s of products of bf16 matrices"),
            "copy_tb_s": Figure("TB/s that a copy inside the GPU reads and writes"),
            "pageable_gb_s": Figure("GB/s to the GPU from ordinary memory"),
            "pinned_gb_s": Figure("GB/s to the GPU from pinned memory"),
            **{
                f"{kernel}_{precision}_tflops": Figure(
                    f"TFLOP/s of the attention kernel {kernel}; 0 if it is not exact"
                )
                for kernel in ("flash", "cudnn", "efficient", "flex")
                for precision in ("bf16", "fp16", "fp32")
            },
            "cuda_away_from_cpu": Figure("the most that a tiny film's latents differ from a CPU's", at_most=1e-4),
            "renders_that_differ": Figure("1 if a film rendered twice has different bits", at_most=0),
            "waits": Figure("passes that wait for the GPU", at_most=0),
            "ranks_away_from_one": Figure("the most that a pass on 2 x 2 ranks differs from one rank", at_most=1e-5),
            "exchange_ms": Figure("an all-to-all of 256 MiB in a world of one rank, over NCCL"),
            "longlive_chunk_ms": Figure("a chunk of causal Wan 1.3B at 832x480 with the window of LongLive"),
            "longlive_fps": Figure("frames per second of its denoising", at_least=40),
            "longlive_launch_ms": Figure("what the host takes to start a pass"),
            "longlive_compiled_chunk_ms": Figure("a chunk with the window of LongLive, with --compile blocks"),
            "longlive_compiled_launch_ms": Figure("what the host takes to start a pass of it"),
            "self_forcing_chunk_ms": Figure("a chunk with the window of Self-Forcing"),
            "self_forcing_fps": Figure("frames per second of its denoising"),
            "self_forcing_launch_ms": Figure("what the host takes to start a pass"),
            "peak_gib": Figure("the most GPU memory of these films"),
            "decode_fp32_ms": Figure("the decoder for a chunk, in float32"),
            "decode_bf16_ms": Figure("the same in bf16"),
            "decode_bf16_channels_last_ms": Figure("the same with channels last"),
            "text_ms": Figure("a prompt through an encoder of UMT5-XXL's size"),
            **{
                f"encode_{threads}_fps": Figure("frames of 832x480 per second of x264 with so many threads")
                for threads in (1, 4, 8)
            },
            **{
                f"film_{act}_ms": Figure("a chunk of a film of the built-in model in this act")
                for act in ("denoise", "decode", "encode", "publish")
            },
            "film_resumed_differs": Figure("1 if chunks of it that are rendered again have other bits", at_most=0),
            "wan_14b_chunk_ms": Figure("a chunk of causal Wan 14B at 832x480 with the window of LongLive"),
            "wan_14b_launch_ms": Figure("what the host takes to start a pass"),
            "upscale_frame_ms": Figure("a frame of 240x136 through the built-in upscaler, by 2"),
            "flashvsr_frame_ms": Figure("such a frame through FlashVSR, by 4"),
            **{
                f"linear_{name}_ms": Figure(f"the first layer of the MLP of Wan 1.3B over 4,680 rows, {form}")
                for name, form in {"bf16": "in bf16", "fp8_weights": "weights in float8", "fp8": "in float8"}.items()
            },
            "sha256_gb_s": Figure("GB/s at which weights are hashed"),
            "load_gb_s": Figure("GB/s at which weights reach the GPU from a cached file"),
        },
        "longtake.jobs.bench.gpu:measure",
        1,
    ),
    "given": Bench(
        {
            "v2a_f1": Figure("wall hits of true footage that its rendered sound meets", at_least=0.95),
            "v2a_by_chance": Figure("the same with the sound of another clip"),
            "a2v_f1": Figure("sounds of a true soundtrack that the rendered picture meets", at_least=0.6),
            "a2v_by_chance": Figure("the same with the soundtrack of another clip"),
            "pixels_changed_outside": Figure("pixels outside of a mask that differ from the footage", at_most=0),
        },
        "longtake.jobs.bench.given:measure",
        repeats=1,
    ),
    "hot-path": Bench(
        {
            "host_syncs_per_pass": Figure(
                "times that the host waits for the device in a pass, the most of any family", at_most=0
            ),
            "transfers_in_loop": Figure(
                "copies between host and device in the step loop of a chunk of two steps", at_most=0
            ),
            **{
                f"{family}_kernels": Figure("kernels of one layer in a pass", at_most=most)
                for family, most in _MOST_KERNELS.items()
            },
            **{f"wan_{key}": figure for key, figure in {**_OF_A_LAYER, **_OF_THEIRS}.items()},
            **{f"ltx2_{key}": figure for key, figure in {**_OF_A_LAYER, **_OF_THEIRS}.items()},
            **{f"built_in_{key}": figure for key, figure in _OF_A_LAYER.items()},
            "collectives_per_layer": Figure("collectives of a layer of Wan, Ulysses over 8 ranks", at_most=2),
            "messages_per_layer": Figure("messages from rank to rank of such a layer", at_most=0),
            "ulysses_kernels": Figure("kernels of such a layer"),
            "graph_breaks": Figure("times that a compiled block of any family returns to Python", at_most=0),
            "compiled_error": Figure(
                "largest difference of the velocities of compiled blocks, their operations run one by one", at_most=0
            ),
            "host_us_per_layer": Figure("CPU microseconds of the host for a layer of a tiny Wan"),
            "host_us_vs_diffusers": Figure("those over diffusers'"),
        },
        "longtake.jobs.bench.hot_path:measure",
        repeats=1,
    ),
    "leaks": Bench(
        {
            "takes": Figure("takes of two seconds that two pools of actors rendered in one cluster"),
            "actors_left": Figure("actors that are still alive afterwards", at_most=0),
            "groups_left": Figure("placement groups that are not removed", at_most=0),
            "objects_left": Figure("objects left in shared memory", at_most=0),
            "files_left": Figure(
                "files that driver and actors hold open at the end, less those after four takes", at_most=0
            ),
        },
        "longtake.jobs.bench.leaks:measure",
        repeats=1,
    ),
    "lora": Bench(
        {
            "train_s": Figure("seconds of training a LoRA of rank 4 for a colour, on one core", at_most=900),
            "taught_accuracy": Figure(
                "films of that colour whose colour, shape, background and motion match the prompt", at_least=0.9
            ),
            "others_accuracy": Figure("the same for other captions, with the LoRA"),
            "others_accuracy_without": Figure("the same without it"),
            "others_change": Figure("absolute value of the difference of these", at_most=0.02),
            "merged_abs_float32": Figure("largest difference of latents from those of merged weights"),
            "merged_abs_float64": Figure("the same in float64", at_most=1e-6),
            "films_that_differ": Figure(
                "films of two LoRAs in two scenes, also killed and resumed, also on two ranks, that differ in any bit",
                at_most=0,
            ),
            "runs_that_differ": Figure(
                "trainings on one worker and on two that were stopped and resumed and end in other bits", at_most=0
            ),
        },
        "longtake.jobs.bench.lora:measure",
        repeats=1,
    ),
    "offload": Bench(
        {
            "weights_mb": Figure("megabytes of the weights of a Wan of 60 layers"),
            "held_share": Figure(
                "most resident memory of a clip over those weights, with --offload layers",
                at_most=0.25 + 1 / 60,
            ),
            "held_share_without": Figure("the same without offloading"),
            "time_ratio": Figure("seconds of a clip with --offload layers over those without"),
            "films_that_differ": Figure("1 if the clips differ in any bit", at_most=0),
        },
        "longtake.jobs.bench.offload:measure",
        repeats=1,
    ),
    "open-weights": Bench(
        {
            "families": Figure("families of open weights, tiny, random and causal, rendered by two ranks on Ray"),
            "kills": Figure("drivers that were killed with SIGKILL when half of the film was denoised"),
            "films_that_differ": Figure(
                "resumed films whose latents, packets, sound or file differ in any bit", at_most=0
            ),
            "wrong_counts": Figure("films with a wrong number of frames or samples", at_most=0),
            "memory_growth": Figure(
                "resident bytes of the ranks in the last quarter of the time over those in the second, minus 1",
                at_most=0.02,
            ),
        },
        "longtake.jobs.bench.open_weights:measure",
        repeats=1,
    ),
    "parity": Bench(
        {
            "cases": Figure("compared cases: degrees x heads x sizes x precisions x models"),
            "max_rel_float32": Figure(
                "largest difference from one rank over the largest value, in float32", at_most=1e-5
            ),
            "max_rel_float64": Figure("the same in float64", at_most=1e-12),
            "ranks_that_differ": Figure("ranks whose result differs from that of rank 0 in any bit", at_most=0),
            "film_chunk_rel_float32": Figure(
                "largest difference in a film of 2 and of 3 ranks whose chunks each start from the context of one rank",
                at_most=1e-5,
            ),
            "film_free_rel_float64": Figure(
                "the same in float64 when chunks start from the gang's own context", at_most=1e-8
            ),
            "film_free_rel_float32": Figure("the same in float32, last chunk: rounding that grows over the film"),
            "diffusers_max_rel_float32": Figure(
                "largest difference of diffusers' Ulysses, uncached, on shapes that it accepts"
            ),
            "diffusers_refused": Figure("shapes that diffusers' Ulysses refuses, even in its mode for uneven shapes"),
        },
        "longtake.jobs.bench.parity:measure",
    ),
    "parity-models": Bench(
        {
            "cases": Figure("comparisons with diffusers: passes, clips, gangs and codecs"),
            "max_abs_float32": Figure(
                "largest difference of a pass, or of the latents or frames of a clip",
                at_most=1e-5,
            ),
            "max_abs_ranks_float32": Figure("the same for clips and passes that 2 and 3 ranks share", at_most=1e-5),
            "decode_abs_float64": Figure(
                "largest difference between a decode in chunks and diffusers' decode of the whole", at_most=1e-10
            ),
        },
        "longtake.jobs.bench.parity_models:measure",
        repeats=1,
    ),
    "parity-road": Bench(
        {
            "max_abs_float32": Figure(
                "largest difference of a film's latents from diffusers' clip, over all that have no decision",
                at_most=1e-5,
            ),
            **{name: Figure(f"of {name}") for name in _SAME_AS_DIFFUSERS},
            **{name: Figure(f"of {name}, wanted: {page}") for name, page in _UNLIKE_DIFFUSERS.items()},
        },
        "longtake.jobs.bench.parity_road:measure",
        repeats=1,
    ),
    "resume": Bench(
        {
            "kills": Figure("drivers that were killed with SIGKILL before their film was done"),
            "films_that_differ": Figure(
                "resumed films whose latents, packets, sound or file differ from the undisturbed film in any bit",
                at_most=0,
            ),
            "chunks_done_twice": Figure("finished chunks that were denoised or encoded again", at_most=0),
            "finished_again_s": Figure(
                "seconds of the render command when its film is finished, start to end; the least of three", at_most=2
            ),
        },
        "longtake.jobs.bench.resume:measure",
    ),
    "road": Bench(
        {
            "engine_tax": Figure(
                "wall time on Ray with one chunk in flight over that in one process, without start_s: each the least of"
                " several, which take turns",
                at_most=1.03,
            ),
            "start_s": Figure("seconds until all actors are ready"),
            "chunk_s": Figure("seconds of a chunk in one process"),
            "overlap_sleep": Figure(
                "three stages that sleep 0.5 s per chunk: wall time over that of one stage", at_most=1.08
            ),
            "core_use": Figure(
                "CPU seconds in one process over 2 x wall time on Ray, for stages of similar length", at_least=0.75
            ),
            "first_segment": Figure(
                "wall time from the first denoise call until its segment is published over its three stages' own",
                at_most=1.2,
            ),
        },
        "longtake.jobs.bench.road:measure",
    ),
    "scaling": Bench(
        {
            "speedup_2": Figure("seconds of a pass on one rank over those of a pass that two share"),
            "ceiling_2": Figure(
                "the same for two independent passes at once, counted as one: the most that the machine allows"
            ),
            "efficiency_2": Figure("speedup_2 over ceiling_2", at_least=0.85),
            "bytes_ratio": Figure("bytes sent for the attention of a pass over planned bytes", at_most=1.0),
            "vs_diffusers": Figure("seconds of diffusers' Ulysses over ours for the same uncached pass", at_least=1.0),
        },
        "longtake.jobs.bench.scaling:measure",
    ),
    "upscale": Bench(
        {
            "workers_identical": Figure(
                "1 if 1, 2 and 5 workers, one of them killed, and a handoff write the same packets as one process",
                at_least=1,
            ),
            "speedup_2": Figure("seconds of one process without Ray over those of two workers"),
            "ceiling_2": Figure(
                "the same for two independent processes, counted as one: the most that the machine allows"
            ),
            "efficiency_2": Figure("median of speedup_2 over ceiling_2", at_least=0.92),
            "memory_growth": Figure(
                "resident bytes after 5,000 small frames over those after 500, minus 1", at_most=0.02
            ),
            "psnr_gain_db_min": Figure(
                "least PSNR gain over the better of bicubic and Lanczos, of all clips and scales", at_least=0.5
            ),
            "ssim_gain_min": Figure("least SSIM gain over the better of the two", at_least=0.0),
            "warp_ratio_max": Figure(
                "largest temporal warping error over that of the bicubic enlargement", at_most=1.1
            ),
            "temporal_gain_db": Figure("PSNR gain of the KV store, at the scale where it is least", at_least=0.1),
        },
        "longtake.jobs.bench.upscale:measure",
        repeats=1,
    ),
    "second-world": Bench(
        {
            "codec_psnr_db": Figure("mean PSNR of true clips through the video codec", at_least=30),
            "codec_attribute_accuracy": Figure(
                "share of attributes read in true clips through the codecs", at_least=0.98
            ),
            "codec_sync_f1": Figure(
                "F1 of seen and heard events in them: what a perfect denoiser would reach", at_least=0.9
            ),
            "prompt_accuracy_one": Figure("films of one shape in which all is as the prompt says", at_least=0.95),
            "prompt_accuracy_two": Figure("films of two shapes in which all is as the prompt says", at_least=0.85),
            "prompt_accuracy_held_out": Figure("the same for prompts that training never showed", at_least=0.85),
            "attribute_accuracy": Figure("share of attributes that are as the prompts say"),
            "onset_f1_one": Figure("F1 of seen and heard events within 62.5 ms, one shape", at_least=0.8),
            "onset_f1_fast": Figure("the same for one fast shape", at_least=0.85),
            "onset_f1_slow": Figure("the same for one slow shape", at_least=0.7),
            "onset_f1_two": Figure("the same for two shapes, by colour", at_least=0.65),
            "onset_f1_by_chance": Figure("the same for all, with the sound shifted by half a film"),
            "offset_ms": Figure("median of sound minus picture, of pairs", at_most=10),
            "realtime_factor": Figure("seconds of film per second of the pipeline in one process", at_least=2),
        },
        "longtake.jobs.bench.second_world:measure",
        repeats=1,
    ),
    "world": Bench(
        {
            "draw_ms": Figure("median milliseconds of CPU to draw a clip of 4 s, picture and sound", at_most=50),
            **_OF_A_READER,
            **{f"{key}_coded": figure for key, figure in _OF_A_READER_CODED.items()},
            "accuracy_by_chance": Figure("share of right attributes in the readings of the next clip"),
            "sync_f1_by_chance": Figure("sync_f1 with the sound shifted by half a clip"),
        },
        "longtake.jobs.bench.world:measure",
        repeats=1,
    ),
}
"""Name -> bench."""
