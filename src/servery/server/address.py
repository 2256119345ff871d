"""The address that is listened on: a socket bound to it, or what to do where it cannot be had."""

import errno
import socket

from servery.server.option_error import OptionError

_OTHER_PORT = "choose another with --port, or 0 for any that is free"
_ADVICE = {
    errno.EADDRNOTAVAIL: "--host takes an address of this machine, or 0.0.0.0 for all of them",
    errno.EACCES: "ports below 1024 are the system's; choose a higher one with --port",
}


def listening_socket(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A bound socket, with `is_shared` beside others at the same port; raises `OptionError` with what to do when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OptionError(f"the host {host!r} cannot be resolved: {error.strerror}.") from error
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(address)
        sock.listen(2048)  # from here on nobody else can have the port
    except OSError as error:
        sock.close()
        advice = _ADVICE.get(error.errno or 0, _OTHER_PORT)
        raise OptionError(f"cannot listen on {host} port {port}: {error.strerror}; {advice}.") from error
    sock.setblocking(False)
    return sock


def url_of(sock: socket.socket) -> str:
    """Where a client finds it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
