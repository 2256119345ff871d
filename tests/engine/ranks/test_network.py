"""Who listens does so at one address; who comes is patient, and says at last what was wrong."""

import pytest

from servery.engine.errors import LoadError
from servery.engine.ranks.network import INTERFACE_VARIABLES, address_of, come_to, interface_of, listen
from tests.engine.ranks.nodes import ADDRESS


def test_it_listens_at_the_address_given_and_no_other() -> None:
    with listen(ADDRESS, 0) as listener:
        host, port = listener.getsockname()
        assert host == ADDRESS
        with come_to(ADDRESS, port, 60.0) as there:
            assert there.getpeername() == (ADDRESS, port)
        with pytest.raises(
            LoadError, match=rf"{ADDRESS}:{port} cannot be listened on: .*--master-port one that nothing"
        ):
            listen(ADDRESS, port)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", r"192\.0\.2\.1:29500 cannot be listened on: .*--master-addr must be an address of this machine"),
        ("a" * 70, r"--master-addr a+ is no address that is known here: .*label"),
    ],
)
def test_an_address_of_another_machine_is_refused(host: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        listen(host, 29500)


def test_who_comes_waits_for_who_listens_and_no_longer_than_told() -> None:
    times = iter([0.0, 1.0, 2.0, 4.0])
    with pytest.raises(LoadError, match=rf"nobody answered at {ADDRESS}:1 within 3 s \(--join-timeout\): .*refused"):
        come_to(ADDRESS, 1, 3.0, clock=lambda: next(times), pause_s=0.001)
    assert next(times, None) is None


def test_the_interface_is_that_of_the_address_unless_the_user_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in INTERFACE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert interface_of("127.0.0.1") == interface_of(ADDRESS) == interface_of("::1") == "lo"
    assert address_of("localhost") in {"127.0.0.1", "::1"}
    with pytest.raises(LoadError, match=r"no network interface says that its address is 192\.0\.2\.7; name the one"):
        interface_of("192.0.2.7")
    monkeypatch.setenv(INTERFACE_VARIABLES[1], "ib0")
    assert interface_of("192.0.2.7") == "ib0"
