"""Receivers of notifications: an SMTP server that demands STARTTLS and a log-in (aiosmtpd), and a web server that checks
signatures, over HTTP and HTTPS. Writes what it gets as lines of JSON. Arguments: folder with cert.pem and key.pem, address."""

import email
import email.policy
import hashlib
import hmac
import http.server
import json
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

folder, address = sys.argv[1:3]


def note(name, line):
    with open(f"{folder}/{name}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


class Mails:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        note("mail", {
            "to": envelope.rcpt_tos,
            "from": envelope.mail_from,
            "tls": session.ssl is not None,
            "user": session.auth_data,
            "subject": mail["Subject"],
            "auto": mail["Auto-Submitted"],
            "text": mail.get_content(),
        })
        return "250 OK"


def log_in(server, session, envelope, mechanism, data):
    right = data.login == b"roost" and data.password == b"hidden-password"
    return AuthResult(success=right, handled=right, auth_data=data.login.decode())


class Hooks(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = dict(pair.split("=", 1) for pair in self.headers.get("X-Roost-Signature", "t=0,v1=").split(","))
        right = hmac.new(b"hidden-key", f"{said['t']}.".encode() + body, hashlib.sha256).hexdigest()
        note("hook", {"path": self.path, "signed": said["v1"] == right, "body": json.loads(body)})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
Controller(
    Mails(), hostname=address, port=2525, tls_context=context, require_starttls=True, authenticator=log_in,
    auth_required=True,
).start()
safe = http.server.ThreadingHTTPServer((address, 18443), Hooks)
safe.socket = context.wrap_socket(safe.socket, server_side=True)
threading.Thread(target=safe.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer((address, 18080), Hooks).serve_forever()
