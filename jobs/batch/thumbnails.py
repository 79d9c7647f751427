"""Stills of the films of a batch, and links to them, for its report."""

import os
from base64 import b64encode
from collections.abc import Sequence
from fractions import Fraction
from urllib.parse import quote

import av
import fsspec

from longtake.jobs.batch.ledger import Record
from longtake.pipeline.errors import LongtakeError
from longtake.pipeline.journal.store import Store

_LONGEST_SIDE = 96
_MOST = 200  # further takes are listed without a still

_WEB = ("http://", "https://")


def thumbnails(store: Store, records: Sequence[Record]) -> dict[str, str]:
    """A still from the middle of each finished film as a data URL, by the take's id.

    Each is kept in the store as `thumbs/ID-FINGERPRINT.jpg`. A film from which none can be read has none.
    """
    done = [record for record in records if record.state == "done"][:_MOST]
    stills = {record.id: _kept(store, record) for record in done}
    return {name: f"data:image/jpeg;base64,{b64encode(still).decode()}" for name, still in stills.items() if still}


def _kept(store: Store, record: Record) -> bytes | None:
    name = f"thumbs/{record.id}-{record.fingerprint[:12]}.jpg"
    try:
        return store.get(name)
    except FileNotFoundError:
        pass
    try:
        still = _still(Store(record.output).url_of(record.film))
    except (OSError, av.FFmpegError, LongtakeError, StopIteration, IndexError):
        return None
    store.put(name, still, durable=False)
    return still


def _still(url: str) -> bytes:
    """The picture in the middle of a film, small, as JPEG."""
    with fsspec.open(url, "rb") as file, av.open(file, "r") as container:
        stream = container.streams.video[0]
        container.seek((stream.duration or 0) // 2, stream=stream)
        frame = next(iter(container.decode(stream)))
    scale = min(1.0, _LONGEST_SIDE / max(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuvj420p", Fraction(1)
    picture = frame.reformat(width=width, height=height, format="yuvj420p")
    picture.pts = None
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))


def link(record: Record, folder: str) -> str:
    """The address of a take's film as seen from a page in `folder`; empty if a browser cannot reach it from there.

    A film is linked by its path from the page if both are local or in one bucket, and by its URL if it is on the web.
    """
    if record.state != "done":
        return ""
    place, path = _place(f"{record.output.rstrip('/')}/{record.film}")
    page_place, page_path = _place(folder)
    if place == page_place:
        return quote(os.path.relpath(path, page_path))
    return f"{place}{quote(path)}" if place.startswith(_WEB) else ""


def _place(url: str) -> tuple[str, str]:
    """A URL's protocol and host or bucket, which are empty for a local path, and the path there."""
    if "://" not in url:
        return "", os.path.abspath(url)  # noqa: PTH100 - nothing is resolved, so links stay as the user named them
    protocol, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{protocol}://{host}", f"/{path}"
