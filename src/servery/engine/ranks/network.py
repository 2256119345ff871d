"""Sockets between the machines of a model: one that listens at one address and no other, one that comes to it. No torch."""

import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from servery.engine.errors import LoadError

# Where a user says which interface torch is to talk over, by its backends.
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_GET_ADDRESS = 0x8915  # SIOCGIFADDR
_IPV6_INTERFACES = Path("/proc/net/if_inet6")
_CONNECT_S = 5.0
_PAUSE_S = 0.2


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address of this machine; port 0: the system chooses. Raises `LoadError`."""
    family, address = _resolve(host, port)
    try:
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        raise LoadError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}. --master-addr must be an address of this "
            "machine that the other nodes reach, and --master-port one that nothing else uses."
        ) from error


def come_to(
    host: str, port: int, patience_s: float, clock: Callable[[], float] = time.monotonic, pause_s: float = _PAUSE_S
) -> socket.socket:
    """A connection to who listens there, also if that begins only within `patience_s`. Raises `LoadError`."""
    deadline = clock() + patience_s
    while True:
        try:
            sock = socket.create_connection((host, port), timeout=_CONNECT_S)
        except OSError as error:
            if clock() + pause_s > deadline:
                raise LoadError(
                    f"nobody answered at {host}:{port} within {patience_s:g} s (--join-timeout): {error.strerror or error}. "
                    "Is the head running there with the same --nnodes and --master-port, and is the port reachable?"
                ) from error
            time.sleep(pause_s)
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def interface_of(address: str) -> str:
    """The network interface that has an address of this machine; raises `LoadError` where that cannot be told.

    What the user says to torch counts, see `INTERFACE_VARIABLES`.
    """
    told = next((os.environ[name] for name in INTERFACE_VARIABLES if os.environ.get(name)), None)
    if told is not None:
        return told
    wanted = ipaddress.ip_address(address.partition("%")[0])
    for _, name in socket.if_nameindex():
        if wanted in _addresses_of(name) or (wanted.is_loopback and name == "lo"):
            return name
    raise LoadError(
        f"no network interface says that its address is {address}; name the one that leads to the other nodes in "
        f"{' and '.join(INTERFACE_VARIABLES)}."
    )


def address_of(host: str) -> str:
    """The number of a host; raises `LoadError`."""
    return str(_resolve(host, 0)[1][0])


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be any host's name
        why = getattr(error, "strerror", None) or error
        raise LoadError(f"--master-addr {host} is no address that is known here: {why}.") from error
    return family, (str(address[0]), port)


def _addresses_of(interface: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        answer = fcntl.ioctl(sock, _GET_ADDRESS, struct.pack("256s", interface.encode()[:15]))
        found.append(ipaddress.ip_address(answer[20:24]))
    with suppress(OSError):
        for line in _IPV6_INTERFACES.read_text().splitlines():
            number, *_, name = line.split()
            if name == interface:
                found.append(ipaddress.ip_address(bytes.fromhex(number)))
    return found
