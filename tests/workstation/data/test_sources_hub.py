"""Wake Vision streamed by `datasets` over HTTP, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import numpy as np
import pytest

from tests.kit.wake_vision import SIZE, labelled, persons, picture, row, write_parquet
from tinyclf.workstation.data import check_dataset, open_dataset

PINNED = "19c27e44926386c2dba2561cf71356b71d81a38b"
API = "/api/datasets/Harvard-Edge/Wake-Vision"


class Hub(BaseHTTPRequestHandler):
    """Answers the four requests that streaming makes: the commit, two listings, and ranges of files."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]] = {}
    served: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path, _, query = unquote(self.path).partition("?")
        name = path.partition(f"/resolve/{PINNED}/")[2]
        listing = [{"type": "file", "path": n, "size": len(raw), "oid": "0" * 40} for n, raw in self.files.items()]
        if path == f"{API}/revision/{PINNED}":
            self._json({"id": "Harvard-Edge/Wake-Vision", "sha": PINNED, "siblings": [], "tags": []})
        elif path == f"{API}/tree/{PINNED}/data" or (path == f"{API}/tree/{PINNED}" and "recursive=true" in query):
            self._json(listing)
        elif name in self.files:
            self.served.append(name)
            self._range(self.files[name])
        else:
            self._reply(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _json(self, content: Any) -> None:
        self._reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _range(self, raw: bytes) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = raw[int(first) : int(last) + 1 if last else None]
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(raw)}"
        self._reply(206, part, {"Content-Range": where, "ETag": '"x"', "X-Repo-Commit": PINNED})

    def _reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Serve two test files (images 0-19) and one of validation (20-29); return the address."""
    for name, first in (("test-00000-of-00002", 0), ("test-00001-of-00002", 10), ("validation-00000-of-00001", 20)):
        file = tmp_path / f"{name}.parquet"
        write_parquet(file, [row(first + i, person=person) for i, person in enumerate(persons(first, 10))])
        Hub.files[f"data/{file.name}"] = file.read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_streaming_from_the_hub(hub: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["data", "build", "wake-vision", "--split", "test", "--size", str(SIZE), "--out", str(out)]
    no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    env = {**os.environ, **no_proxy, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    run = subprocess.run([sys.executable, "-m", "tinyclf", *args], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert check_dataset(out).provenance["repositories"] == {"Harvard-Edge/Wake-Vision": PINNED}
    test = open_dataset(out).split("test")
    assert np.array_equal(test.gather(range(len(test))), np.stack([picture(number) for number in labelled(0, 20)]))
    assert set(Hub.served) == {"data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"}
