"""Addresses of Ray clusters as users write them. What cannot be joined is refused within seconds: Ray waits minutes."""

import os
import socket
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from longtake.pipeline.errors import SpecError

LOCAL = "local"
"""The address of a new cluster on this machine, whatever `RAY_ADDRESS` says."""

AUTO = "auto"
"""The address of the cluster that was started last on this machine."""

ANSWER_S = 5.0
HOW_TO = f"start one (ray start --head), or use --address {LOCAL} for one on this machine"

_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call that the server of every Ray cluster (GCS) answers, if only by asking for a token."""


def written(address: str | None) -> str | None:
    """An address without space around it; None for an empty one."""
    return (address or "").strip() or None


def from_environment() -> str | None:
    """The cluster that `RAY_ADDRESS` names; None if it names none."""
    address = written(os.environ.get("RAY_ADDRESS"))
    return None if address == LOCAL else address


def named(address: str | None) -> str:
    """The beginning of a message: who named the cluster to join, and how."""
    if given := written(address):
        return f"--address is {given}"
    return f"RAY_ADDRESS is {there}" if (there := from_environment()) else "the cluster of this job is joined"


def reachable(address: str | None) -> str:
    """HOST:PORT of the cluster to join, where a cluster's server listens.

    Args:
        address: what the user wrote; None: what the environment says.

    Raises:
        SpecError: it is no address of a cluster, or no cluster answers there.
    """
    where = named(address)
    place = written(address) or from_environment() or AUTO
    if place == AUTO:
        place = _started_here(where)
        where += f", the cluster at {place}"
    host, port = _parts(place, where)
    try:
        answer = _answer(host, port)
        if answer == grpc.StatusCode.UNAUTHENTICATED and "RAY_AUTH_MODE" not in os.environ and _token():
            _send_token()
            answer = _answer(host, port)
    except OSError as error:
        why = error.strerror or str(error)
        raise SpecError(f"{where}, and no Ray cluster can be joined there: {why}; {HOW_TO}") from error
    if answer == grpc.StatusCode.UNAUTHENTICATED:
        seen = "refuses the token" if _uses_token() else "asks for a token"
        raise SpecError(
            f"{where}, a cluster that {seen}; set RAY_AUTH_MODE=token, and put the token into RAY_AUTH_TOKEN, or the"
            " name of its file into RAY_AUTH_TOKEN_PATH (~/.ray/auth_token is read by default)"
        )
    if answer in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
        raise SpecError(
            f"{where}, and what listens there is not the server of a Ray cluster; use the address that ray start"
            " printed, usually port 6379, or longtake submit with the dashboard's URL"
        )
    return place


def _started_here(where: str) -> str:
    os.environ["RAY_ADDRESS"] = from_environment() or ""  # Ray would take spaces for an address
    try:
        found = import_module("ray._private.services").get_ray_address_from_environment(AUTO, None)
    except ConnectionError:
        raise SpecError(f"{where}, and no Ray cluster runs on this machine; {HOW_TO}") from None
    return str(found).strip()


def _parts(address: str, where: str) -> tuple[str, int]:
    """Host and port. Raises `SpecError` for another form."""
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.scheme in ("http", "https"):
        raise SpecError(
            f"{where}, the URL of a dashboard; send a job there (longtake submit --address {address}), or on a node of"
            f" the cluster use --address {AUTO}; --address {LOCAL} starts a cluster on this machine"
        )
    if url.scheme == "ray":
        raise SpecError(
            f"{where}, an address of Ray Client, which a render does not use; send a job (longtake submit --address"
            f" http://{url.hostname or 'HOST'}:8265), or on a node of the cluster use --address {AUTO}"
        )
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if url.scheme or not host or not port:
        raise SpecError(f"{where}; use HOST:PORT as ray start printed it, such as 10.0.0.1:6379, {AUTO}, or {LOCAL}")
    return host, port


def _answer(host: str, port: int) -> grpc.StatusCode:
    """What the server of a Ray cluster answers there. Raises `OSError` where nothing listens, or does not answer."""
    socket.create_connection((host, port), ANSWER_S).close()
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return grpc.StatusCode.OK
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    metadata = (("authorization", f"Bearer {_token()}"),) if _uses_token() else ()
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        alive: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_ALIVE)
        try:
            alive(b"", timeout=ANSWER_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"what listens there gave no answer for {ANSWER_S:g} s") from None
            return error.code()
    return grpc.StatusCode.OK


def _uses_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def _send_token() -> None:
    """Make Ray send its token: where it starts a cluster it does so if it finds one, where it joins one it does not."""
    os.environ["RAY_AUTH_MODE"] = "token"
    import_module("ray._raylet").Config.initialize("")  # it has read the environment


def _token() -> str:
    """The token that Ray finds; "" if there is none."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file.is_file() else "")
