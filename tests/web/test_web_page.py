"""What the folder of the page holds, and what a build never touches."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from ldeq.cli import main
from ldeq.engine import Pretrained
from ldeq.errors import LdeqError
from ldeq.export import expected
from ldeq.files import FileError, write_atomically
from ldeq.web import PageError, build_page, runtime
from ldeq.web.page import MARKER, check_folder, kept_runtime, static_files
from ldeq.web.server import POLICY

STAND_IN = {name: f"stand-in for {name}".encode() for name in runtime.FILES}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- what is in it ---


def test_every_file_that_the_page_names_is_in_the_folder(bare_page: Path) -> None:
    files = contents(bare_page)
    for name, data in files.items():
        if name.endswith(".js"):
            for target in re.findall(r'from "\./([^"]+)"', data.decode()):
                assert target in files, f"{name} imports {target}"
    for target in re.findall(r'(?:src|href)="([^"#]+)"', files["index.html"].decode()):
        assert target in files
    clips = json.loads(files["demo/demo.json"])["clips"]
    assert len(clips) == 2
    for clip in clips:
        shapes = {cv2.imdecode(np.frombuffer(files[f"demo/{name}"], np.uint8), 1).shape for name in clip["frames"]}
        assert len(shapes) == 1 and len(clip["frames"]) >= 60
    assert json.loads(files["web.json"])["files"].keys() == files.keys() - {"web.json"}


def test_the_page_needs_no_other_server(bare_page: Path) -> None:
    for name, data in contents(bare_page).items():
        if name.endswith((".html", ".js", ".css", ".svg")):
            addresses = set(re.findall(r"https?://[^\s\"'`)]+", data.decode())) - {"http://www.w3.org/2000/svg"}
            assert not addresses, name


def test_the_page_itself_forbids_what_the_server_forbids() -> None:
    html = static_files()["index.html"].decode()
    assert f'http-equiv="Content-Security-Policy" content="{POLICY}"' in html
    assert not re.search(r"\sstyle=|\son\w+=|<script>", html)  # the policy would block them


def test_every_control_has_a_label() -> None:
    html = static_files()["index.html"].decode()
    for element, identity in re.findall(r'<(input|select) id="([\w-]+)"', html):
        assert f'<label class="button" for="{identity}"' in html or re.search(rf'<label[^>]* for="{identity}"', html), element
    assert re.search(r'<p id="status" role="status"', html)


def test_the_two_graphs_are_the_model(bare_page: Path, pretrained: Pretrained) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    first, second = (
        onnxruntime.InferenceSession(str(bare_page / "model" / name), providers=["CPUExecutionProvider"])
        for name in ("injection.onnx", "evaluation.onnx")
    )
    clip = json.loads((bare_page / "demo" / "demo.json").read_text())["clips"][0]
    frame = cv2.cvtColor(cv2.imread(str(bare_page / "demo" / clip["frames"][0])), cv2.COLOR_BGR2RGB)
    crop = cv2.resize(frame[40:240, 60:260], (128, 128))[None]
    (term,) = first.run(None, {"images": crop})
    z = pretrained.model.initial_state(1).numpy()
    for _ in range(3):
        landmarks, std, z, _ = second.run(["landmarks", "std", "z", "residual"], {"z0": z, "term": term})
    wanted, wanted_std, wanted_z = expected(pretrained.model, crop, pretrained.model.initial_state(1), 3)
    assert np.abs(landmarks / 128 - wanted.numpy()).max() < 1e-4
    assert np.abs(std / 128 - wanted_std.numpy()).max() < 1e-4
    assert np.abs(z - wanted_z.numpy()).max() < 1e-3
    assert onnx.load(str(bare_page / "model" / "evaluation.onnx")).graph.input[0].name == "z0"


def test_the_description_says_licence_and_layout(bare_page: Path, pretrained: Pretrained) -> None:
    about = json.loads((bare_page / "model" / "model.json").read_text())
    assert "research" in about["licence"]
    assert about["layout"]["count"] == pretrained.layout.count == len(about["layout"]["rigid"])
    assert about["evaluations"] == pretrained.model.config.max_iter + 1
    assert "Microsoft" in (bare_page / "licences.txt").read_text()


# --- what a build never touches ---


pytestmark = pytest.mark.usefixtures("made_once")


@pytest.mark.parametrize("name", ["thesis.txt", "index.html", "web.json", "deep/er.txt"])
def test_a_folder_of_somebody_else_is_left_alone(name: str, pretrained: Pretrained, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"made_by": "me", "files": {}}')
    before = contents(tmp_path)
    with pytest.raises(PageError, match=r"is not empty, and ldeq web did not make it; choose a new folder"):
        build_page(pretrained, tmp_path, STAND_IN)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["style.css", "main.js", "model/model.json", "demo/0/000.jpg", "onnxruntime/ort.wasm.min.mjs"])
def test_a_file_that_was_changed_is_not_overwritten(name: str, page: Path, pretrained: Pretrained) -> None:
    (page / name).write_text("my own work")
    before = contents(page)
    with pytest.raises(PageError, match=re.escape(f"{page / name} was changed or added since")):
        build_page(pretrained, page, STAND_IN)
    assert contents(page) == before


def test_a_file_under_a_new_name_of_the_page_is_not_overwritten(
    page: Path, pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    (page / "new.js").write_text("mine")
    monkeypatch.setattr("ldeq.web.page.static_files", lambda: {**static_files(), "new.js": b"ours"})
    with pytest.raises(PageError, match=r"new\.js was changed or added since"):
        build_page(pretrained, page, STAND_IN)
    assert (page / "new.js").read_text() == "mine"


def test_a_link_is_not_followed(page: Path, pretrained: Pretrained, tmp_path: Path) -> None:
    mine = tmp_path / "mine.css"
    mine.write_bytes((page / "style.css").read_bytes())
    (page / "style.css").unlink()
    (page / "style.css").symlink_to(mine)
    with pytest.raises(PageError, match=r"style\.css is not the file that ldeq web made"):
        build_page(pretrained, page, STAND_IN)


def test_a_name_in_the_list_that_leads_out_of_the_folder_is_not_believed(page: Path, pretrained: Pretrained) -> None:
    outside = page.parent / "outside.txt"
    outside.write_text("x")
    for name in ("../outside.txt", str(outside)):
        document = json.loads((page / "web.json").read_text())
        document["files"][name] = [hashlib.sha256(b"x").hexdigest()]
        (page / "web.json").write_text(json.dumps(document))
        build_page(pretrained, page, STAND_IN)
        assert outside.read_text() == "x"


def test_what_somebody_added_beside_the_page_stays(page: Path, pretrained: Pretrained) -> None:
    (page / "notes.txt").write_text("mine")
    build_page(pretrained, page, STAND_IN)
    assert (page / "notes.txt").read_text() == "mine"


def test_a_later_build_removes_what_the_page_no_longer_has(
    page: Path, pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldeq.web.page.static_files", lambda: {n: d for n, d in static_files().items() if n != "icon.svg"})
    build_page(pretrained, page, STAND_IN)
    assert not (page / "icon.svg").exists()
    assert "icon.svg" not in json.loads((page / "web.json").read_text())["files"]


def test_a_build_that_was_killed_can_be_repeated(page: Path, pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the files are then new, and half are old."""
    changed = {name: data + b"\n" for name, data in static_files().items()}
    monkeypatch.setattr("ldeq.web.page.static_files", lambda: changed)
    written: list[Path] = []

    def killed(path: Path, data: bytes | str) -> Path:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return write_atomically(path, data)

    monkeypatch.setattr("ldeq.web.page.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        build_page(pretrained, page, STAND_IN)
    monkeypatch.setattr("ldeq.web.page.write_atomically", write_atomically)
    build_page(pretrained, page, STAND_IN)
    assert all((page / name).read_bytes() == data for name, data in changed.items())
    assert all(len(sums) == 1 for sums in json.loads((page / "web.json").read_text())["files"].values())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(PageError, match="is a file; give the name of a folder"):
        check_folder(tmp_path / "x")


# --- onnxruntime-web ---


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_a_package_with_another_checksum_is_refused() -> None:
    package = packed(STAND_IN)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    assert runtime.unpacked(package, integrity) == STAND_IN
    with pytest.raises(runtime.RuntimeFilesError, match="has the checksum sha512-"):
        runtime.unpacked(package)


def test_without_npm_the_sentence_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(runtime.RuntimeFilesError, match=r"npm is not installed: install Node\.js, or .*--onnxruntime-web"):
        runtime.from_npm()


@pytest.mark.parametrize(
    "script", ["echo 'npm error code ENOTFOUND' >&2; echo 'npm error network is down' >&2; exit 1", "exit 0"]
)
def test_an_npm_that_fails_ends_in_a_sentence(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(runtime.RuntimeFilesError) as error:
        runtime.from_npm()
    reason = "network is down" if "network" in script else "it gives no reason"
    assert f"npm cannot fetch onnxruntime-web {runtime.VERSION}: {reason}; try again, or give" in str(error.value)


@pytest.mark.parametrize("inner", ["", "dist", "onnxruntime-web/dist"])
def test_a_package_that_is_there_is_found(inner: str, tmp_path: Path) -> None:
    folder = tmp_path / "given" / inner
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in STAND_IN.items():
        (folder / name).write_bytes(data)
    assert runtime.from_folder("--onnxruntime-web", tmp_path / "given") == STAND_IN
    assert runtime.version_of(tmp_path / "given") == "of unknown version"
    (folder.parent / "package.json").write_text('{"name": "onnxruntime-web", "version": "9.8.7"}')
    assert runtime.version_of(folder) == "9.8.7"


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runtime.RuntimeFilesError, match="does not hold .* npm install onnxruntime-web@"):
        runtime.from_folder("--onnxruntime-web", tmp_path)


def test_nothing_is_fetched_twice(page: Path) -> None:
    assert kept_runtime(page) == STAND_IN
    (page / "onnxruntime" / runtime.FILES[0]).write_bytes(b"other")
    assert kept_runtime(page) is None


def test_another_version_is_not_kept(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "VERSION", "99.0.0")
    assert kept_runtime(page) is None


# --- the cache ---


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A package that passes for the published one; npm packs it, and there is an empty cache."""
    package = packed(STAND_IN)
    monkeypatch.setattr(runtime, "INTEGRITY", "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "package.tgz").write_bytes(package)
    script = tmp_path / "bin" / "npm"
    script.write_text(
        "#!/bin/sh\n"
        f"echo called >> {tmp_path}/calls\n"
        'if [ "$1" = config ]; then echo https://me:secret@packages.example/npm/; exit; fi\n'
        f"cp {tmp_path}/package.tgz .\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return package


def page_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["web", str(folder)]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")
def test_a_second_page_takes_the_package_from_the_cache_and_needs_no_npm(
    published: bytes, made_once: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "cache" / "ldeq" / f"onnxruntime-web-{runtime.VERSION}.tgz"
    told = page_of(tmp_path / "one", capsys)
    assert (
        f"fetching onnxruntime-web {runtime.VERSION}, 33 MB, from https://packages.example by npm, once: {kept} keeps it"
        in told
    )
    assert "secret" not in told and kept.read_bytes() == published
    monkeypatch.setenv("PATH", "")
    told = page_of(tmp_path / "two", capsys)
    assert f"onnxruntime-web {runtime.VERSION} from {kept}" in told and "fetching" not in told
    assert (tmp_path / "two" / "onnxruntime" / runtime.FILES[0]).read_bytes() == STAND_IN[runtime.FILES[0]]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")
def test_a_damaged_package_in_the_cache_is_fetched_again(
    published: bytes, made_once: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = runtime.cached_package()
    kept.parent.mkdir(parents=True)
    kept.write_bytes(published[:-9])
    assert "fetching" in page_of(tmp_path / "one", capsys)
    assert kept.read_bytes() == published


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")
def test_a_cache_that_cannot_be_written_ends_no_page(
    published: bytes, made_once: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    told = page_of(tmp_path / "one", capsys)
    assert "cannot be written, so that the next page fetches it again" in told
    assert (tmp_path / "one" / "index.html").is_file()


# --- the command ---


def test_the_command_makes_the_page_and_says_how_to_look_at_it(
    bare_page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, data in STAND_IN.items():
        (modules / name).write_bytes(data)
    assert main(["web", str(tmp_path / "out"), "--onnxruntime-web", str(modules)]) == 0
    printed = capsys.readouterr().out
    assert "small-68, onnxruntime-web of unknown version" in printed
    assert f"look at it with: ldeq web {tmp_path / 'out'} --serve" in printed
    same = contents(tmp_path / "out")
    assert {n: d for n, d in same.items() if n != "web.json"} == {
        n: d for n, d in contents(bare_page).items() if n != "web.json"
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "1"], "--port is of no use without --serve; add --serve"),
        (["--serve", "--port", "-1"], "--port must be from 0 to 65535, got -1"),
        (["--serve", "--port", "65536"], "--port must be from 0 to 65535, got 65536"),
        (["--model", "nobody.safetensors", "--onnxruntime-web", "."], "does not hold"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["web", "out", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_errors_of_the_page_are_those_of_ldeq() -> None:
    assert issubclass(PageError, LdeqError) and issubclass(runtime.RuntimeFilesError, LdeqError)
    assert issubclass(FileError, LdeqError) and MARKER == "web.json"


def test_without_onnx_the_sentence_names_the_extra(
    pretrained: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(LdeqError, match=r"needs the package onnx, which is not installed: pip install 'ldeq\[web\]'"):
        build_page(pretrained, tmp_path / "out", STAND_IN)
    assert not (tmp_path / "out").exists()
