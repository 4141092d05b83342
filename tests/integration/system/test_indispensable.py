"""Which addresses a host needs: as the kernel and the resolver have them, and with real connections."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

from watchdog.system.indispensable import indispensable

ROUTE = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0100A8C0 0003 0 0 0 00000000 0 0 0
eth0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""
ROUTE6 = (
    f"{'0' * 32} 00 {'0' * 32} 00 20010db8{'0' * 23}1 00000400 00000001 00000000 00000003 eth0\n"
    f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000100 00000001 00000000 00000001 eth0\n"
)
TCP = """  sl  local_address rem_address   st tx_queue
   0: 0100007F:0016 0A0200C0:C001 01 0
   1: 0100007F:1F40 0B0200C0:C001 01 0
   2: 0100007F:0016 0C0200C0:C001 06 0
"""
TCP6 = """  sl  local_address rem_address st
   0: 00000000000000000000000000000000:08AE 0000000000000000FFFF00000D0200C0:C001 01 0
   1: 00000000000000000000000000000000:08AE B80D0120000000000000000007000000:C001 01 0
"""


def planted(root: Path) -> Path:
    (root / "proc/net").mkdir(parents=True)
    (root / "etc").mkdir()
    for name, text in (("route", ROUTE), ("ipv6_route", ROUTE6), ("tcp", TCP), ("tcp6", TCP6)):
        (root / "proc/net" / name).write_text(text)
    servers = "# x\nnameserver 192.0.2.53\nnameserver fe80::53%eth0\nnameserver nonsense\nnameserver\n"
    (root / "etc/resolv.conf").write_text(servers)
    return root


def test_gateways_name_servers_and_sessions_are_known(tmp_path: Path) -> None:
    """Routes with a gateway, name servers that are addresses, and who is connected to an SSH port, not who was."""
    found = {str(address): what for address, what in indispensable((22, 2222), planted(tmp_path)).items()}
    gateway, server, session = ("it is a gateway of this host", "it is a name server of this host", "an SSH session")
    assert found["192.168.0.1"] == found["2001:db8::1"] == gateway
    assert found["192.0.2.53"] == found["fe80::53"] == server
    assert {address for address, what in found.items() if what.startswith(session)} == {
        "192.0.2.10",
        "192.0.2.13",
        "2001:db8::7",
    }
    assert ip_address("127.0.0.1") in indispensable((), tmp_path)


def test_a_real_connection_is_seen_in_the_real_tables() -> None:
    """With the port that we listen on in place of SSH's; only while it stands."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.9", 0)) as client:
            accepted, _ = server.accept()
            with accepted:
                assert "SSH" in indispensable((port,))[ip_address("127.0.0.9")]
                assert ip_address("127.0.0.9") not in indispensable((client.getsockname()[1],))


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """On a host without /proc/net the own addresses remain."""
    assert set(indispensable((22,), tmp_path).values()) == {"it is this host itself"}
