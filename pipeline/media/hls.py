"""A film that can be watched while it is rendered: HTTP Live Streaming (RFC 8216) over fragmented MP4.

`live/master.m3u8` names `live/video.m3u8` and `live/audio.m3u8`, event playlists that grow by one segment or more a
chunk. A playlist is written after the files that it names, so a reader finds all of them.

The sound starts at its first packet at or after 0: what the encoder puts before (its priming) would need an edit
list, which Chromium's own HLS player disregards, and then it plays all sound late by the priming. The price is that
a decoder fades in over the film's first 1024 samples; `film.mp4` holds every packet and starts exactly.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from hashlib import sha256
from math import ceil

from longtake.pipeline.errors import MediaError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.mp4 import Sample, Track, fragment

MASTER_NAME = "live/master.m3u8"


class Rendition:
    """One stream of the live film: a header, media segments and the playlist that names them.

    A segment depends on its samples and its number alone, and its name holds a hash of its bytes: made again after
    a crash it is the same file, and no other film's segment is ever taken for it.

    Args:
        store: where to put them.
        name: `video` or `audio`; begins every file's name.
        track: what the segments hold.
        target_s: no segment is longer than this many seconds.
    """

    def __init__(self, store: Store, name: str, track: Track, target_s: int) -> None:
        self.num_segments = 0
        self.peak_bits_per_s = 0
        self._store, self._name, self._track, self._target_s = store, name, track, target_s
        self._playlist_name = f"live/{name}.m3u8"
        self._shown = store.get(self._playlist_name) if store.exists(self._playlist_name) else b""
        self._text = (
            "#EXTM3U\n#EXT-X-VERSION:7\n"
            f"#EXT-X-TARGETDURATION:{target_s}\n"
            "#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-INDEPENDENT-SEGMENTS\n"
        )

    def append(self, samples: Sequence[Sample]) -> None:
        """Put one media segment that holds `samples`, and then name it in the playlist."""
        start, stop = samples[0].start, samples[-1].stop
        length_s = Fraction(stop - start, self._track.ticks_per_s)
        if length_s > self._target_s:
            raise MediaError(
                f"{self._name} segment {self.num_segments} lasts {float(length_s):g} s, but the playlist promised"
                f" at most {self._target_s} s; open the publisher with the longest chunk's duration"
            )
        header, data = fragment(self._track, samples, self.num_segments + 1)
        if not self.num_segments:
            self._text += f'#EXT-X-MAP:URI="{self._put("init", "mp4", header)}"\n'
        uri = self._put(f"{self.num_segments:05d}", "m4s", data)
        # Differences of rounded times, so that rounding does not add up over the film.
        length_us = self._microseconds(stop) - self._microseconds(start)
        self._text += f"#EXTINF:{length_us // 10**6}.{length_us % 10**6:06d},\n{uri}\n"
        self.num_segments += 1
        self.peak_bits_per_s = max(self.peak_bits_per_s, ceil(len(data) * 8 / length_s))
        self._show()

    def finish(self) -> None:
        """Tell players that nothing follows."""
        self._text += "#EXT-X-ENDLIST\n"
        self._show()

    def _microseconds(self, ticks: int) -> int:
        return round(Fraction(ticks * 10**6, self._track.ticks_per_s))

    def _put(self, label: str, suffix: str, data: bytes) -> str:
        uri = f"{self._name}-{label}-{sha256(data).hexdigest()[:12]}.{suffix}"
        self._store.put(f"live/{uri}", data, durable=False)
        return uri

    def _show(self) -> None:
        text = self._text.encode()
        # An event playlist may only grow: after a resume, wait until there is more to show than before the crash.
        if not self._shown.startswith(text):
            self._store.put(self._playlist_name, text, durable=False)


class LiveFilm:
    """Picture and sound as two renditions under one master playlist.

    Args:
        video: the picture's track.
        audio: the sound's track; None for a silent film.
        size: width and height in pixels.
        fps: frames per second.
        channels: sound channels.
        longest_chunk_s: duration of the longest chunk, which is promised to players.
    """

    def __init__(
        self,
        store: Store,
        video: Track,
        audio: Track | None,
        *,
        size: tuple[int, int],
        fps: Fraction,
        channels: int,
        longest_chunk_s: Fraction,
    ) -> None:
        self._store, self._target_s = store, ceil(longest_chunk_s)
        self._tracks = {"video": video} | ({} if audio is None else {"audio": audio})
        self._renditions: dict[str, Rendition] = {}
        self._size, self._fps, self._channels = size, fps, channels
        self._master = ""

    def append(self, picture: Sequence[Sample], sound: Sequence[Sample]) -> None:
        """Show one chunk, and the sound that became final with it (maybe none)."""
        self._append("video", picture)
        self._append_sound(sound)
        self._show_master()

    def finish(self, sound: Sequence[Sample]) -> None:
        """Show the last sound and say that the film is whole."""
        self._append_sound(sound)
        for rendition in self._renditions.values():
            rendition.finish()
        self._show_master()

    def _append_sound(self, sound: Sequence[Sample]) -> None:
        heard = [sample for sample in sound if sample.start >= 0]
        if heard:
            for samples in _pieces(heard, self._target_s * self._tracks["audio"].ticks_per_s):
                self._append("audio", samples)

    def _append(self, name: str, samples: Sequence[Sample]) -> None:
        if name not in self._renditions:
            self._renditions[name] = Rendition(self._store, name, self._tracks[name], self._target_s)
        self._renditions[name].append(samples)

    def _show_master(self) -> None:
        if self._renditions.keys() == self._tracks.keys() and self._master != (text := self._master_text()):
            self._master = text
            self._store.put(MASTER_NAME, text.encode(), durable=False)

    def _master_text(self) -> str:
        # Known only as far as the film goes: the master is put again when the peak has grown.
        bits_per_s = sum(rendition.peak_bits_per_s for rendition in self._renditions.values())
        codecs = ",".join(track.codecs for track in self._tracks.values())
        sound, group = "", ""
        if "audio" in self._tracks:
            sound = (
                '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="sound",NAME="sound",DEFAULT=YES,AUTOSELECT=YES,'
                f'CHANNELS="{self._channels}",URI="audio.m3u8"\n'
            )
            group = ',AUDIO="sound"'
        return (
            f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n{sound}"
            f'#EXT-X-STREAM-INF:BANDWIDTH={bits_per_s},CODECS="{codecs}",'
            f"RESOLUTION={self._size[0]}x{self._size[1]},FRAME-RATE={float(self._fps):.3f}{group}\nvideo.m3u8\n"
        )


def _pieces(samples: Sequence[Sample], limit: int) -> Iterator[list[Sample]]:
    """Cut samples into runs of at most `limit` ticks."""
    piece: list[Sample] = []
    for sample in samples:
        if piece and sample.stop - piece[0].start > limit:
            yield piece
            piece = []
        piece.append(sample)
    if piece:
        yield piece
