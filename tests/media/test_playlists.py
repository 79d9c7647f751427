"""Files that name other files: FFmpeg opens none of them."""

import pytest
import torch

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.media.source import opened

LISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
    "b.m3u8": "\ufeff#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "c.ffconcat": "ffconcat version 1.0\nfile {url}\n",
    "d.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45678 RTP/AVP 96\n",
    "e.mpd": '<?xml version="1.0"?>\n<MPD type="static"><Period><BaseURL>{url}</BaseURL></Period></MPD>',
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_a_list_of_other_files_is_refused_and_none_is_opened(name, suffix, tmp_path, socket_of_nobody):
    for url in (socket_of_nobody.url, f"file://{tmp_path}/secret.png"):
        write_png(torch.zeros(8, 8, 3, dtype=torch.uint8), tmp_path / "secret.png")
        (tmp_path / (name + suffix)).write_text(LISTS[name].format(url=url))
        with (
            pytest.raises(MediaError, match="what it names is not opened; name the film itself"),
            opened(str(tmp_path / (name + suffix))),
        ):
            pass
    assert socket_of_nobody.calls == 0


@pytest.fixture
def socket_of_nobody():
    """A server that counts who calls."""
    import socket
    from threading import Thread
    from types import SimpleNamespace

    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}/a.ts", calls=0)

        def listen():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.calls += 1
                connection.close()

        Thread(target=listen, daemon=True).start()
        yield seen
        server.shutdown(socket.SHUT_RDWR)
