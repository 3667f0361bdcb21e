"""Serves the pages, tells them where everything is, and signs buyers in. Also: how all services here answer HTTP."""

import base64
import hashlib
import hmac
import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FILES = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, content_type=None):
        content_type = content_type or ("text/plain" if isinstance(body, str) else "application/json")
        data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        # The pages come from another port. What is here for them to read is public.
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def token(user, secret):
    """A JWT as any login service makes it, by hand to need no library: who it is, and until when."""
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"sub": user, "exp": int(time.time()) + 3600})
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class Web(Handler):
    def do_GET(self):
        url = urlsplit(self.path)
        name = {"/": "index.html", "/buyer": "buyer.html"}.get(url.path, url.path.lstrip("/"))
        if url.path == "/settings.json":
            push = os.environ["PUSH_URLS"].split(",")
            urls = {"push": push, "state": os.environ["REPORTS_URL"] + "/state", "payments": os.environ["PAYMENTS_URL"]}
            self.answer(200, urls)
        elif url.path == "/login":
            # A real one asks for a password.
            user = parse_qs(url.query).get("user", [""])[0]
            known = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", user)
            self.answer(200, {"token": token(user, os.environ.get("JWT_SECRET", "development"))}) if known else self.answer(400, {})
        elif re.fullmatch(r"[a-z]+\.[a-z]+", name) and (FILES / name).is_file():
            self.answer(200, (FILES / name).read_bytes(), TYPES[Path(name).suffix])
        else:
            self.answer(200 if url.path == "/health" else 404, {})


if __name__ == "__main__":
    ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["WEB_PORT"])), Web).serve_forever()
