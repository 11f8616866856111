"""The server serves the page to this machine alone, with what a browser needs to trust it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldeq.web import PageServer, runtime
from ldeq.web.server import POLICY, ServeError


@pytest.fixture(scope="module")
def server(bare_page: Path) -> Iterator[PageServer]:
    with PageServer(bare_page, 0) as server:
        server.read_names()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/main.js", "text/javascript; charset=utf-8"),
        ("/onnxruntime/ort.wasm.min.mjs", "text/javascript; charset=utf-8"),
        ("/onnxruntime/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/model/evaluation.onnx", "application/octet-stream"),
        ("/model/model.json", "application/json"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/demo/0/000.jpg", "image/jpeg"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_has_the_type_that_a_browser_demands(server: PageServer, bare_page: Path, path: str, kind: str) -> None:
    status, headers, body = ask(server, path)
    assert (status, headers["content-type"]) == (200, kind)
    assert body == (bare_page / (path.lstrip("/") or "index.html")).read_bytes()


@pytest.mark.parametrize("path", ["/", "/main.js", "/nothing"])
def test_every_answer_isolates_the_page_and_forbids_other_servers(server: PageServer, path: str) -> None:
    _, headers, _ = ask(server, path)
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith(POLICY)
    assert "connect-src 'self'" in POLICY and "default-src 'none'" in POLICY
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/secret.txt", "/demo/", "/web.json", "//etc/passwd"])
def test_nothing_but_the_files_of_the_page_is_served(server: PageServer, bare_page: Path, path: str) -> None:
    (bare_page.parent / "secret.txt").write_text("secret")
    status, _, body = ask(server, path)
    assert status == 404
    assert b"secret" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", ""])
def test_a_page_under_another_name_gets_nothing(server: PageServer, host: str) -> None:
    """A name of somebody else's may be made to lead to this machine."""
    assert ask(server, "/", Host=host.format(port=server.port))[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.port}")[0] == 200


def test_only_reading_is_possible(server: PageServer) -> None:
    assert ask(server, "/", "HEAD")[0] == 200
    assert ask(server, "/main.js", "PUT")[0] == 501
    assert ask(server, "/main.js", "POST")[0] == 501


def test_a_port_that_is_taken_is_told_in_a_sentence(bare_page: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"--port {port} cannot be used: .*; choose another one, or 0 for a free one"):
            PageServer(bare_page, port)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C of another process is a matter of consoles there")
def test_ctrl_c_ends_it_in_a_sentence(page: Path, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    for name in runtime.FILES:
        (modules / name).write_bytes((page / "onnxruntime" / name).read_bytes())
    command = [sys.executable, "-m", "ldeq", "web", str(page), "--serve", "--port", "0", "--onnxruntime-web", str(modules)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ in a browser; Ctrl-C ends the server\n", lines[-1])
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert out == f"\nthe server has ended; the page stays in {page}\n"
    finally:
        process.kill()
        process.wait()
