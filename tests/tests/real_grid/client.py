"""Speaks XML-RPC with a real server as an ordinary Python program would: URL, CA file, user, password."""
import ssl
import sys
import xmlrpc.client as xmlrpc

url, ca, user, password = sys.argv[1:]
server = xmlrpc.ServerProxy(url, context=ssl.create_default_context(cafile=ca), allow_none=True)


def fault(call, code):
    try:
        answer = call()
    except xmlrpc.Fault as found:
        assert found.faultCode == code, found
        return found
    raise AssertionError(f"no fault {code} but {answer!r}")


methods = server.system.listMethods()
for wanted in ("system.multicall", "session.login", "host.list", "guest.list", "guest.start", "operation.wait"):
    assert wanted in methods, (wanted, methods)
assert server.system.methodHelp("guest.start")
assert server.system.methodSignature("guest.start")[0][1] == "string"

fault(lambda: server.session.login(user, "wrong"), 4010)
fault(lambda: server.guest.list("no session"), 4010)
fault(lambda: server.no.such.method(), -32601)
session = server.session.login(user, password)

assert [host["name"] for host in server.host.list(session)] == ["h1"]
assert {guest["name"] for guest in server.guest.list(session)} == {"python", "perl"}
pages = [server.guest.list(session, {"limit": 1, "offset": at, "fields": "name"}) for at in range(3)]
assert pages == [[{"name": "perl"}], [{"name": "python"}], []], pages
assert server.guest.list(session, {"state": "running"}) == []
assert server.system.methodSignature("guest.list")[0][0] == "array"
fault(lambda: server.guest.list(session, {"cursor": "x"}), 4220)
fault(lambda: server.guest.get(session, "unknown"), 4040)
operation = server.guest.start(session, "python")
ended = server.operation.wait(session, operation["id"], 30)
assert ended["state"] == "succeeded", ended
assert ended["created"] <= ended["started"] <= ended["ended"], ended

calls = xmlrpc.MultiCall(server)
calls.guest.get(session, "perl")
calls.guest.get(session, "unknown")
answers = calls()
assert answers[0]["name"] == "perl"
fault(lambda: answers[1], 4040)
print("all fine")
