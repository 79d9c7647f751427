import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from io import BytesIO
from itertools import pairwise
from math import floor
from pathlib import Path
from uuid import uuid4

import av
import pytest
import torch

from longtake.pipeline.clock import MediaClock
from longtake.pipeline.errors import MediaError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.read import count_film, read_film
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.testing.media import fake_frames, fake_sound, fake_spans

NTSC = Fraction(24000, 1001)
LENGTHS = (10, 7, 1, 20, 4)
PLANS = [
    (NTSC, 16000, 2, LENGTHS),
    (NTSC, 44100, 1, LENGTHS),
    (Fraction(25), 48000, 2, LENGTHS),
    (Fraction(30000, 1001), 48000, 1, (13, 30, 2)),
    (Fraction(60), 22050, 2, (1,)),
    (Fraction(7), 16000, 1, (3, 5)),
]


@cache
def segments(fps=NTSC, sample_rate=16000, channels=2, lengths=LENGTHS):
    encode = EncodeStage(fps, quality=20)
    return tuple(
        encode(fake_frames(span, 48, 64), fake_sound(span.samples, sample_rate, channels))
        for span in fake_spans(MediaClock(fps, sample_rate, 1, 1), lengths)
    )


def options(fps=NTSC, lengths=LENGTHS, **changes):
    return PublishOptions(fps, longest_chunk_s=max(lengths) / fps, **changes)


def publish(store, film=None, **changes):
    with PublishStage(store, options(**changes)) as stage:
        for segment in segments() if film is None else film:
            stage(segment)
    return stage.film


def packets(data, kind):
    """Packets of one stream as (pts in seconds, duration in seconds, bytes), priming left out."""
    with av.open(BytesIO(data)) as container:
        stream = getattr(container.streams, kind)[0]
        return [
            (packet.pts * packet.time_base, packet.duration * packet.time_base, in_annex_b(bytes(packet), kind))
            for packet in container.demux(stream)
            if packet.size and packet.pts >= 0
        ]


def in_annex_b(data, kind):
    """MP4 puts a length before each NAL unit where the encoder put a start code; undo it."""
    if kind == "audio":
        return data
    units = []
    while data:
        size = int.from_bytes(data[:4])
        units.append(data[4 : 4 + size])
        data = data[4 + size :]
    return units


def nal_units(segment_packets):
    return [re.split(rb"\x00\x00\x00?\x01", packet.data)[1:] for packet in segment_packets]


def read_playlist(store, name):
    """What a playlist says: its target duration, its header's name, and its segments' durations and names."""
    text = store.get(f"live/{name}.m3u8").decode()
    target = int(re.search(r"#EXT-X-TARGETDURATION:(\d+)", text)[1])
    header = re.search(r'#EXT-X-MAP:URI="(.+)"', text)[1]
    entries = re.findall(r"#EXTINF:([\d.]+),\n(\S+)", text)
    return text, target, header, [(Fraction(seconds), uri) for seconds, uri in entries]


@pytest.mark.parametrize(("fps", "sample_rate", "channels", "lengths"), PLANS)
def test_counts_times_and_durations_are_exact(tmp_path, fps, sample_rate, channels, lengths):
    film = publish(Store(str(tmp_path)), segments(fps, sample_rate, channels, lengths), fps=fps, lengths=lengths)
    num_frames = sum(lengths)
    num_samples = floor(num_frames / fps * sample_rate)
    count = count_film(film.url)
    decoded = read_film(film.url)
    assert (film.num_frames, film.num_samples, film.duration_s) == (num_frames, num_samples, num_frames / fps)
    assert count.video.num_packets == num_frames
    assert count.video.monotone
    assert count.audio.monotone
    assert (count.video.start_s, count.audio.start_s) == (0, 0)
    assert count.video.stop_s == count.video.header_s == num_frames / fps
    assert count.audio.stop_s == count.audio.header_s == Fraction(num_samples, sample_rate)
    assert decoded.frame_times_s == tuple(frame / fps for frame in range(num_frames))
    assert decoded.frames.shape == (num_frames, 48, 64, 3)
    assert decoded.pcm.shape == (channels, num_samples)
    assert (decoded.sample_rate, decoded.sound_start_s) == (sample_rate, 0)


@pytest.mark.parametrize(("fps", "sample_rate", "channels", "lengths"), PLANS)
def test_the_live_rendition_holds_the_films_own_packets_at_the_films_own_times(
    tmp_path, fps, sample_rate, channels, lengths
):
    store = Store(str(tmp_path))
    film = publish(store, segments(fps, sample_rate, channels, lengths), fps=fps, lengths=lengths)
    whole = Path(film.url).read_bytes()
    for kind in ("video", "audio"):
        _, target, header, entries = read_playlist(store, kind)
        live = b"".join(store.get(f"live/{uri}") for uri in [header, *(uri for _, uri in entries)])
        meant = packets(whole, kind)
        assert packets(live, kind) == meant
        assert abs(sum(seconds for seconds, _ in entries) - (meant[-1][0] + meant[-1][1])) <= Fraction(1, 10**6)
        assert all(seconds <= target for seconds, _ in entries)


def test_the_film_holds_the_encoders_packets_bit_for_bit(tmp_path):
    film = publish(Store(str(tmp_path)))
    written = [data for _, _, data in packets(Path(film.url).read_bytes(), "video")]
    assert written == [units for segment in segments() for units in nal_units(segment.packets)]


def test_each_live_segment_plays_alone_at_its_absolute_time(tmp_path):
    store = Store(str(tmp_path))
    publish(store)
    _, _, header, entries = read_playlist(store, "video")
    assert len(entries) == len(LENGTHS)
    for segment, (seconds, uri) in zip(segments(), entries, strict=True):
        alone = packets(store.get(f"live/{header}") + store.get(f"live/{uri}"), "video")
        assert [start for start, _, _ in alone] == [frame / NTSC for frame in segment.span.frames]
        assert [data for _, _, data in alone] == nal_units(segment.packets)
        assert abs(seconds - len(segment.packets) / NTSC) <= Fraction(1, 10**6)


def test_picture_and_sound_come_back_as_they_were_and_in_step(tmp_path):
    film = publish(Store(str(tmp_path)))
    decoded = read_film(film.url)
    meant = torch.cat([fake_frames(segment.span, 48, 64).frames for segment in segments()]).float()
    errors = (decoded.frames.float()[:, None] - meant[None]).square().mean(dim=(2, 3, 4))
    assert errors.argmin(dim=1).tolist() == list(range(sum(LENGTHS)))
    pcm = torch.cat([segment.sound.pcm for segment in segments()], dim=1)
    inside = slice(2048, -2048)  # a sine that starts and ends at once costs AAC its edges
    lags = {lag: (decoded.pcm.roll(-lag, 1) - pcm)[:, inside].square().mean().item() for lag in range(-64, 65)}
    assert min(lags, key=lags.get) == 0
    assert lags[0] < 1e-6


def test_a_playlist_names_only_what_is_there_and_only_grows(tmp_path):
    store = Store(str(tmp_path))
    shown = {"video": "", "audio": ""}
    with PublishStage(store, options()) as stage:
        for number, segment in enumerate(segments(), 1):
            stage(segment)
            assert store.exists("live/master.m3u8")
            for name, before in shown.items():
                text, target, header, entries = read_playlist(store, name)
                assert text.startswith(before)
                assert text.startswith("#EXTM3U\n")
                assert "#EXT-X-PLAYLIST-TYPE:EVENT\n" in text
                assert "#EXT-X-ENDLIST" not in text
                assert target == 1
                assert len(entries) == number or (name == "audio" and entries)
                assert all(store.exists(f"live/{uri}") for uri in [header, *(uri for _, uri in entries)])
                shown[name] = text
    for name, before in shown.items():
        text = store.get(f"live/{name}.m3u8").decode()
        assert text.startswith(before)
        assert text.endswith("#EXT-X-ENDLIST\n")


def test_the_master_playlist_says_what_players_must_know_beforehand(tmp_path):
    store = Store(str(tmp_path))
    film = publish(store)
    text = store.get("live/master.m3u8").decode()
    with av.open(film.url) as container:
        level = container.streams.video[0].codec_context.level
    assert film.playlist_url == f"{tmp_path}/live/master.m3u8"
    assert f'CODECS="avc1.6400{level:02x},mp4a.40.2",RESOLUTION=64x48,FRAME-RATE=23.976,AUDIO="sound"' in text
    assert 'CHANNELS="2",URI="audio.m3u8"' in text
    promised = int(re.search(r"[:,]BANDWIDTH=(\d+)", text)[1])
    peaks = [
        max(len(store.get(f"live/{uri}")) * 8 / seconds for seconds, uri in read_playlist(store, name)[3])
        for name in ("video", "audio")
    ]
    assert 0 <= promised - sum(peaks) < 100


def late(film, borders):
    """The same film with its sound cut elsewhere: piece k ends at sample borders[k]."""
    pcm = torch.cat([segment.sound.pcm for segment in film], dim=1)
    pieces = [
        replace(segment.sound, start_sample=start, pcm=pcm[:, start:stop])
        for segment, (start, stop) in zip(film, pairwise([0, *borders]), strict=True)
    ]
    return [replace(segment, sound=piece) for segment, piece in zip(film, pieces, strict=True)]


@pytest.mark.parametrize("borders", [(0, 0, 0, 0, 28028), (5, 5, 3000, 20000, 28028), (0, 1, 1024, 1025, 28028)])
def test_sound_may_lag_behind_its_picture_and_nothing_changes(tmp_path, borders):
    prompt, lagging = Store(f"{tmp_path}/prompt"), Store(f"{tmp_path}/lagging")
    urls = publish(prompt).url, publish(lagging, late(segments(), borders)).url
    for kind in ("video", "audio"):
        assert packets(Path(urls[0]).read_bytes(), kind) == packets(Path(urls[1]).read_bytes(), kind)
    for store in (prompt, lagging):
        _, target, header, entries = read_playlist(store, "audio")
        assert all(seconds <= target for seconds, _ in entries)
    live = b"".join(store.get(f"live/{uri}") for uri in [header, *(uri for _, uri in entries)])
    assert packets(live, "audio") == packets(Path(urls[0]).read_bytes(), "audio")


@pytest.mark.parametrize("url", ["memory", "local"])
def test_two_runs_put_the_same_bytes_wherever_they_put_them(tmp_path, url):
    first = Store(str(tmp_path / "first"))
    second = Store(f"memory://{uuid4()}" if url == "memory" else str(tmp_path / "second"))
    publish(first)
    film = publish(second)
    names = [path.relative_to(tmp_path / "first").as_posix() for path in (tmp_path / "first").rglob("*.*")]
    assert len(names) == 4 + 2 + 2 * len(LENGTHS)
    assert all(first.get(name) == second.get(name) for name in names)
    assert count_film(film.url).video.num_packets == sum(LENGTHS)


def crashing(num_segments, error):
    yield from segments()[:num_segments]
    raise error


class RecordingStore(Store):
    def __init__(self, url):
        super().__init__(url)
        self.puts = []

    def put(self, name, data, *, durable=True):
        self.puts.append((name, data))
        super().put(name, data, durable=durable)


def test_a_film_that_is_published_again_after_a_crash_never_takes_back_what_it_showed(tmp_path):
    undisturbed = Store(str(tmp_path / "undisturbed"))
    publish(undisturbed)
    store = RecordingStore(str(tmp_path / "crashed"))
    with pytest.raises(KeyboardInterrupt):
        publish(store, crashing(3, KeyboardInterrupt))
    publish(store)
    for name in ("live/video.m3u8", "live/audio.m3u8"):
        shown = [data for put, data in store.puts if put == name]
        assert all(late.startswith(early) and late != early for early, late in pairwise(shown))
    for path in (tmp_path / "undisturbed").rglob("*.*"):
        name = path.relative_to(tmp_path / "undisturbed").as_posix()
        assert store.get(name) == undisturbed.get(name)


def test_another_film_in_the_same_place_replaces_the_live_one_at_once(tmp_path):
    store = Store(str(tmp_path))
    publish(store)
    other = EncodeStage(NTSC, quality=40)
    with PublishStage(store, options()) as stage:
        for number, segment in enumerate(segments(), 1):
            stage(other(fake_frames(segment.span, 48, 64), segment.sound))
            assert len(read_playlist(store, "video")[3]) == number


def open_files():
    return {path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


@pytest.mark.parametrize("crash", ["before", "between", "inside"])
def test_an_aborted_film_leaves_no_film_and_nothing_open(tmp_path, crash):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    store = Store(str(tmp_path / "out"))
    with pytest.raises(RuntimeError if crash != "inside" else MediaError):  # noqa: SIM117, PT012
        with PublishStage(store, options(scratch_dir=scratch)) as stage:
            if crash == "before":
                raise RuntimeError
            stage(segments()[0])
            stage(segments()[1])
            assert len(list(scratch.rglob("film.mp4"))) == 1
            if crash == "between":
                raise RuntimeError
            stage(segments()[3])
    assert list(scratch.iterdir()) == []
    assert not store.exists("film.mp4")
    assert not any(str(scratch) in str(path) for path in open_files())
    if crash != "before":
        assert "#EXT-X-ENDLIST" not in store.get("live/video.m3u8").decode()
    with pytest.raises(MediaError, match=r"film\.mp4 is not published yet"):
        _ = stage.film


def test_an_aborted_film_leaves_the_one_before_it_untouched(tmp_path):
    store = Store(str(tmp_path))
    publish(store)
    before = store.get("film.mp4")
    with pytest.raises(RuntimeError):
        publish(store, crashing(1, RuntimeError))
    assert store.get("film.mp4") == before


def test_a_finished_film_leaves_no_temporary_file(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    publish(Store(str(tmp_path / "out")), scratch_dir=scratch)
    assert list(scratch.iterdir()) == []
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((1,), "segment 1 starts at frame 10.*continues with segment 0 at frame 0"),
        ((0, 0), "segment 0 starts at frame 0.*continues with segment 1 at frame 10"),
        ((0, 2), "segment 2 starts at frame 17.*continues with segment 1 at frame 10"),
    ],
)
def test_segments_out_of_order_are_refused(tmp_path, order, message):
    with pytest.raises(MediaError, match=message):
        publish(Store(str(tmp_path)), [segments()[index] for index in order])


def test_a_segment_of_another_size_is_refused(tmp_path):
    other = EncodeStage(NTSC, quality=20)(fake_frames(segments()[1].span, 32, 64), segments()[1].sound)
    with pytest.raises(MediaError, match="encode all segments with one size"):
        publish(Store(str(tmp_path)), [segments()[0], other])


def test_sound_that_ends_before_its_picture_is_no_film(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(MediaError, match="sound ends at sample 28027, its picture at sample 28028"):
        publish(store, late(segments(), (6673, 11344, 12012, 25358, 28027)))
    assert not store.exists("film.mp4")


def test_a_chunk_longer_than_promised_is_refused_before_it_is_shown(tmp_path):
    store = Store(str(tmp_path))
    film = segments(NTSC, 16000, 2, (3, 30))
    with pytest.raises(MediaError, match=r"video segment 1 lasts 1\.25125 s.*at most 1 s"):
        publish(store, film, lengths=(3,))
    assert len(read_playlist(store, "video")[3]) == 1


def test_a_film_without_a_segment_is_refused(tmp_path):
    with pytest.raises(MediaError, match="publish at least one"):
        publish(Store(str(tmp_path)), [])


def test_the_film_carries_its_title_and_comment_and_its_index_in_front(tmp_path):
    film = publish(Store(str(tmp_path)), title="A long take", comment="untrained weights", film_name="cut/one.mp4")
    metadata = count_film(film.url).metadata
    assert (metadata["title"], metadata["comment"]) == ("A long take", "untrained weights")
    assert film.url == f"{tmp_path}/cut/one.mp4"
    data = Path(film.url).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_film_without_live_rendition_puts_one_file(tmp_path):
    film = publish(Store(str(tmp_path)), hls=False)
    assert film.playlist_url is None
    assert [path.name for path in tmp_path.rglob("*")] == ["film.mp4"]


def test_a_silent_film_has_picture_only(tmp_path):
    store = Store(str(tmp_path))
    film = publish(store, segments(NTSC, 16000, 0, LENGTHS))
    count = count_film(film.url)
    assert count.audio is None
    assert (count.video.num_packets, film.num_samples) == (sum(LENGTHS), 0)
    assert "AUDIO" not in store.get("live/master.m3u8").decode()
    assert read_film(film.url).pcm.shape == (0, 0)
    with pytest.raises(MediaError, match="began as a silent one"):
        publish(store, [segments(NTSC, 16000, 0, LENGTHS)[0], segments()[1]])


def test_a_damaged_film_is_reported_as_such(tmp_path):
    film = publish(Store(str(tmp_path)))
    Path(film.url).write_bytes(b"no film" * 100)
    with pytest.raises(MediaError, match=f"reading {re.escape(film.url)}"):
        read_film(film.url)
