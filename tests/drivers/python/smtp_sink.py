"""A mail server for tests: STARTTLS required, AUTH required, certificates checked by whoever connects. Each letter is
written to DIR/N.eml (envelope in X- headers). Arguments: DIR CERTIFICATE KEY USER PASSWORD [--implicit] [--no-tls] [--reject ADDRESS].
The first line on stdout is the port."""

import pathlib
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

directory, certificate, key, user, password, *flags = sys.argv[1:]
implicit, plain = "--implicit" in flags, "--no-tls" in flags
refused = flags[flags.index("--reject") + 1] if "--reject" in flags else None


class Sink:
    def __init__(self):
        self.count = 0
        self.lock = threading.Lock()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address == refused:
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        with self.lock:
            self.count += 1
            number = self.count
        head = f"X-Tls: {session.ssl is not None or implicit}\r\nX-From: {envelope.mail_from}\r\nX-To: {','.join(envelope.rcpt_tos)}\r\n"
        path = pathlib.Path(directory, f"{number:04}.part")
        path.write_bytes(head.encode() + envelope.content)
        path.rename(path.with_suffix(".eml"))
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (user.encode(), password.encode())
    return AuthResult(success=good, handled=True)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Server(Controller):
    def factory(self):
        return SMTP(
            self.handler,
            tls_context=None if implicit or plain else context,
            require_starttls=not (implicit or plain),
            auth_required=True,
            auth_require_tls=not plain and not implicit,
            authenticator=authenticate,
        )


controller = Server(Sink(), hostname="127.0.0.1", port=0, ssl_context=context if implicit else None, ready_timeout=20)
# Port 0: the real one is known once it listens, and the readiness probe needs it.
import socket

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    controller.port = probe.getsockname()[1]
controller.start()
print(controller.port, flush=True)
sys.stdin.read()
