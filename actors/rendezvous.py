"""Where the ranks of a process group meet: at a TCP store that rank 0 keeps for as long as it lives.

Rank 0 binds the port before it names it, so no other process can take it in between.
"""

import socket
from dataclasses import dataclass
from datetime import timedelta

import ray
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub is private


@dataclass(frozen=True)
class StoreAddress:
    """Where rank 0 keeps the store."""

    host: str
    port: int


class Rendezvous:
    """One rank's side of the meeting.

    Args:
        timeout_s: how long a rank waits for its peers, at the meeting and in every exchange.
    """

    def __init__(self, rank: int, num_ranks: int, timeout_s: float) -> None:
        self._rank, self._num_ranks, self._timeout = rank, num_ranks, timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None

    def host(self) -> StoreAddress:
        """Open the store: rank 0 only, before any rank joins."""
        address: str = ray.util.get_node_ip_address()
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        self._store = TCPStore(
            host_name=address,
            port=port,
            world_size=self._num_ranks,
            is_master=True,
            timeout=self._timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return StoreAddress(address, port)

    def join(self, address: StoreAddress, backend: str, connect_s: float | None = None) -> None:
        """Form the process group with all other ranks.

        Args:
            backend: what carries tensors, such as `gloo`.
            connect_s: how long to wait for the store; `timeout_s` unless given.
        """
        if self._store is None:
            connect = self._timeout if connect_s is None else timedelta(seconds=connect_s)
            self._store = TCPStore(host_name=address.host, port=address.port, timeout=connect)
        dist.init_process_group(
            backend, store=self._store, rank=self._rank, world_size=self._num_ranks, timeout=self._timeout
        )
