"""A mirror on the loopback address that injects one fault after another, and tiny archives."""

import contextlib
import hashlib
import http.server
import io
import struct
import threading
import zipfile

import pytest
from copies import zipped

from dermai_utils.basics import UserError
from dermai_utils.copies.fetch import CHUNK

NAME = "ISIC2018_Task3_Training_Input.zip"


def content_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


TOP = "ISIC2018_Task3_Training_Input"
ARCHIVE = zipped({f"{TOP}/ISIC_{i}.jpg": bytes([i]) * 300_000 for i in range(4)})  # 5 chunks
OTHER = zipped({f"{TOP}/ISIC_{i}.jpg": bytes([9 - i]) * 300_000 for i in range(4)})
HALF = 2 * CHUNK
PAGE = b"\n<!DOCTYPE html><title>Log in to the hotel</title>" * 300


class Mirror(http.server.ThreadingHTTPServer):
    """Answers as S3 does, but for the faults in `plan`, one a request."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.plan, self.asked, self.paths = files, [], [], []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        serve = dict(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        threading.Thread(**serve).start()


@contextlib.contextmanager
def serving(files):
    """A Mirror of {name: bytes}."""
    server = Mirror(dict(files))
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers)
        self.server.paths.append(self.path[1:])
        body = self.server.files.get(self.path[1:])
        fault = self.server.plan.pop(0) if self.server.plan else good
        if body is None:  # as S3 answers for a missing key
            return send(self, 403, b"<Error><Code>AccessDenied</Code></Error>")
        fault(self, body)

    def log_message(self, *args):
        pass


def send(handler, code, body, length=None, **headers):
    handler.send_response(code)
    headers = {"Content_Length": len(body) if length is None else length} | headers
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    with contextlib.suppress(ConnectionError):  # a client that has read enough
        handler.wfile.write(body)
        handler.wfile.flush()
    handler.close_connection = True


def etag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def good(handler, body, cut=None):
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    if start and start >= len(body):
        return send(handler, 416, b"<Error/>", Content_Range=f"bytes */{len(body)}")
    part = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    code, rest = 206 if start else 200, body[start:]
    send(handler, code, rest[:cut], len(rest), ETag=etag(body), **part)


def ends_early(handler, body):
    good(handler, body, cut=HALF)


def stalls(handler, body):
    good(handler, body, cut=HALF)
    handler.server.release.wait(20)  # until the test is over


def silent(handler, body):
    handler.server.release.wait(20)


def answers(code, body=b"<Error/>", **headers):
    return lambda handler, _: send(handler, code, body, **headers)


def refusal(call, *args, **kwargs):
    """The one line with which `call` refuses."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert "\n" not in line and ("expected" in line or "not enough room" in line)
    return line


def directory_entry(data, offset, form, value):
    """`data` with one field of the first entry of the zip's directory overwritten."""
    data = bytearray(data)
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    return bytes(data)


def official():
    """{name: bytes} of a tiny copy of the official files."""
    labels = b"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0,1,0,0,0,0,0\n"
    made = {}
    for part, count in (("Training", 3), ("Test", 2)):
        top = f"ISIC2018_Task3_{part}"
        images = {f"{top}_Input/ISIC_{i}.jpg": bytes([i]) * 50 for i in range(count)}
        made[f"{top}_Input.zip"] = zipped({f"{top}_Input/LICENSE.txt": b"CC BY-NC", **images})
        truth = f"{top}_GroundTruth"
        made[f"{truth}.zip"] = zipped({f"{truth}/{truth}.csv": labels})
    made["ISIC2018_Task3_Training_LesionGroupings.csv"] = b"image,lesion_id\nISIC_1,HAM_1\n"
    made["HAM10000_metadata.csv"] = b"lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\n"
    return made
