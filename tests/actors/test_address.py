import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic

import grpc
import pytest

from longtake.actors import address as address_module
from longtake.actors.address import reachable
from longtake.actors.cluster import joined
from longtake.pipeline.errors import SpecError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USE_TLS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def grpc_server(code, token=None):
    """A gRPC server on loopback whose calls end in `code`, but for those with `token`; None: it does not answer."""

    class Calls(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(self.answer)

        def answer(self, _, context):
            if code is None:
                over.wait(10)
            elif code is not grpc.StatusCode.OK and ("authorization", f"Bearer {token}") not in (
                context.invocation_metadata()
            ):
                context.abort(code, "no")
            return b""

    over = threading.Event()
    server = grpc.server(ThreadPoolExecutor(1), handlers=(Calls(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        over.set()
        server.stop(None)


def refused(address):
    started = monotonic()
    with pytest.raises(SpecError) as error:
        reachable(address)
    assert monotonic() - started < 10
    return str(error.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", r"the URL of a dashboard; send a job there \(longtake submit --address http://127"),
        ("ray://head:10001", "Ray Client.*longtake submit --address http://head:8265.*--address auto"),
        ("head", "use HOST:PORT"),
        ("head:port", "use HOST:PORT"),
        ("head:99999", "use HOST:PORT"),
        ("tcp://head:6379", "use HOST:PORT"),
        ("no.such.host.invalid:6379", "no Ray cluster can be joined there: .*--address local"),
    ],
)
def test_addresses_of_other_kinds_are_refused_with_the_right_command(address, message, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(SpecError, match=f"--address is {address}.*{message}"):
        reachable(address)
    monkeypatch.setenv("RAY_ADDRESS", f" {address}\n")
    with pytest.raises(SpecError, match=f"RAY_ADDRESS is {address}.*{message}"), joined(None):
        pass


def test_servers_of_other_kinds_and_ports_where_nobody_listens_are_told_within_seconds(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    assert "no Ray cluster can be joined there: Connection refused; start one" in refused(closed)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as dashboard:
        threading.Thread(target=dashboard.serve_forever, daemon=True).start()
        assert "not the server of a Ray cluster" in refused(f"127.0.0.1:{dashboard.server_address[1]}")
        dashboard.shutdown()
    with grpc_server(grpc.StatusCode.UNIMPLEMENTED) as client_server:
        assert "not the server of a Ray cluster" in refused(client_server)
    monkeypatch.setattr(address_module, "ANSWER_S", 0.3)
    with grpc_server(None) as hangs:
        assert "gave no answer for 0.3 s" in refused(hangs)


def test_a_missing_or_wrong_token_is_told_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with grpc_server(grpc.StatusCode.UNAUTHENTICATED, token="right") as cluster:
        assert "asks for a token; set RAY_AUTH_MODE=token" in refused(cluster)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert "refuses the token" in refused(cluster)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        (tmp_path / "token").write_text("right\n")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        assert reachable(cluster) == cluster


def test_a_token_that_ray_finds_is_sent_to_a_cluster_that_asks_for_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(address_module, "_send_token", lambda: monkeypatch.setenv("RAY_AUTH_MODE", "token"))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("right\n")
    with grpc_server(grpc.StatusCode.UNAUTHENTICATED, token="other") as cluster:
        assert "refuses the token" in refused(cluster)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with grpc_server(grpc.StatusCode.UNAUTHENTICATED, token="right") as cluster:
        assert "asks for a token" in refused(cluster)
        monkeypatch.delenv("RAY_AUTH_MODE")
        assert reachable(cluster) == cluster


def test_a_cluster_answers_also_if_a_proxy_is_set_and_there_is_space_around_its_address(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with grpc_server(grpc.StatusCode.OK) as cluster:
        assert reachable(f" {cluster} ") == cluster
        monkeypatch.setenv("RAY_ADDRESS", f"{cluster}\n")
        assert reachable(None) == reachable("auto") == cluster


def test_auto_names_the_cluster_of_this_machine_that_no_longer_answers(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: [closed])
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    assert f"--address is auto, the cluster at {closed}, and no Ray cluster can be joined" in refused("auto")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", list)
    monkeypatch.setenv("RAY_ADDRESS", " auto ")
    assert "RAY_ADDRESS is auto, and no Ray cluster runs on this machine" in refused(None)
    monkeypatch.setenv("RAY_ADDRESS", "  ")
    assert "no Ray cluster runs on this machine; start one" in refused("auto")


def test_another_version_of_ray_is_named_with_both_versions(monkeypatch):
    def mismatch(**_):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n")

    monkeypatch.setattr("ray.init", mismatch)
    with (
        grpc_server(grpc.StatusCode.OK) as cluster,
        pytest.raises(SpecError, match=r"Ray: 2\.9\.0 Python: 3\.9\.1; use the cluster's versions"),
        joined(cluster),
    ):
        pass
