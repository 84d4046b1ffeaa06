"""Reads the table of guests as a Python monitoring script would, by pysnmp and SNMPv3: port, guests."""
import sys
import warnings

warnings.simplefilter("ignore")
from pysnmp.hlapi import (  # noqa: E402
    ContextData, ObjectIdentity, ObjectType, SnmpEngine, UdpTransportTarget, UsmUserData, bulkCmd,
    usmAesCfb128Protocol, usmHMAC192SHA256AuthProtocol,
)

port, guests = int(sys.argv[1]), int(sys.argv[2])
user = UsmUserData("mon", "authpass12345", "privpass12345", authProtocol=usmHMAC192SHA256AuthProtocol,
                   privProtocol=usmAesCfb128Protocol)
row = "1.3.6.1.2.1.236.1.4.1"
columns = [ObjectType(ObjectIdentity(f"{row}.{column}")) for column in (2, 3, 6, 17)]
target = UdpTransportTarget(("127.0.0.1", port), timeout=10, retries=3)
found = {}
for error, status, _, binds in bulkCmd(SnmpEngine(), user, target, ContextData(), 0, 25, *columns,
                                       lexicographicMode=False):
    assert not error and not status, (error, status)
    name, uuid, state, time = [value for _, value in binds]
    number = int(str(binds[0][0]).rsplit(".", 1)[1])
    assert bytes(uuid)[-1] == number and int(state) == 4 and int(time) == 3_000_000, binds
    found[number] = str(name)
assert found == {number: f"desk-{number:04}" for number in range(1, guests + 1)}, found
print("all fine")
