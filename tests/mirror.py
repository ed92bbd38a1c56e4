"""A mirror on the loopback address that injects one fault after another, and tiny archives for it.
No test waits for real."""

import hashlib
import http.server
import io
import json
import struct
import threading
import zipfile
from collections import namedtuple

import pytest

from dermai_utils.config import UserError
from dermai_utils.data.download import GROUPINGS, METADATA

NAME = "ISIC2018_Task3_Training_Input.zip"


def zipped(members, compression=zipfile.ZIP_STORED):
    """The bytes of a zip of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as bundle:
        for name, content in members.items():
            bundle.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


# about 12 kB
ARCHIVE = zipped(
    {f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([i]) * 3000 for i in range(4)}
)
OTHER = zipped(
    {f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([9 - i]) * 3000 for i in range(4)}
)
HALF = 6000  # whole chunks, of 1000 bytes in these tests
USAGE = namedtuple("usage", "free")
PAGE = b"\n<!DOCTYPE html><title>Log in to the hotel</title>" * 300


# The mirror: well-behaved as S3 is, but for the faults in `plan`, one a request.


class Mirror(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.asked, self.paths, self.release = (
            {},
            [],
            [],
            [],
            threading.Event(),
        )
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self):
        self.release.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers)
        self.server.paths.append(self.path[1:])
        body = self.server.files.get(self.path[1:])
        fault = self.server.plan.pop(0) if self.server.plan else good
        if body is None:
            # as S3 does for a missing key
            return send(self, 403, b"<Error><Code>AccessDenied</Code></Error>")
        fault(self, body)

    def log_message(self, *args):
        pass


def send(handler, code, body, length=None, **headers):
    handler.send_response(code)
    for name, value in {
        "Content_Length": len(body) if length is None else length,
        **headers,
    }.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
    handler.close_connection = True


def etag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def good(handler, body, cut=None):
    start = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
    start = int(start) if handler.headers.get("If-Range", etag(body)) == etag(body) else 0
    if start and start >= len(body):
        return send(handler, 416, b"<Error/>", Content_Range=f"bytes */{len(body)}")
    part = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    send(
        handler,
        206 if start else 200,
        body[start:][:cut],
        len(body) - start,
        ETag=etag(body),
        **part,
    )


def ends_early(handler, body):
    good(handler, body, cut=HALF)


def stalls(handler, body, after=HALF):
    good(handler, body, cut=after)
    handler.server.release.wait(20)  # until the test is over


def silent(handler, body):
    handler.server.release.wait(20)


def ignores_range(handler, body):
    send(handler, 200, body, ETag=etag(body))


def answers(code, body=b"<Error/>", **headers):
    return lambda handler, _: send(handler, code, body, **headers)


def recorded(target):
    return json.loads((target.parent / "SHA256SUMS.json").read_text())[target.name]


def refusal(call, *args, **kwargs):
    """The one line with which `call` refuses."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert line and "\n" not in line and "expected" in line or "not enough room" in line
    return line


def press_ctrl_c():
    raise KeyboardInterrupt


def content_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def directory_entry(data, offset, form, value):
    """`data` with one field of the first entry of the zip's directory overwritten."""
    data = bytearray(data)
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    return bytes(data)


def dataset(test=True, groupings=True, metadata=True):
    """{name: bytes} of a tiny copy of the official files."""
    labels = b"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0,1,0,0,0,0,0\n"
    made = {}
    for part, count in (("Training", 3), ("Test", 2)):
        top = f"ISIC2018_Task3_{part}"
        images = {f"{top}_Input/ISIC_{i}.jpg": bytes([i]) * 50 for i in range(count)}
        made[f"{top}_Input.zip"] = zipped({f"{top}_Input/LICENSE.txt": b"CC BY-NC", **images})
        made[f"{top}_GroundTruth.zip"] = zipped(
            {f"{top}_GroundTruth/{top}_GroundTruth.csv": labels}
        )
    made[GROUPINGS] = b"image,lesion_id\nISIC_1,HAM_1\n"
    made[METADATA] = b"lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\n"
    keep = {"_Test_": test, "Groupings": groupings, "metadata": metadata}
    return {
        name: data
        for name, data in made.items()
        if all(wanted for word, wanted in keep.items() if word in name)
    }


def write(folder, contents):
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
