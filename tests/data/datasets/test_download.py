"""Downloads from a server on this machine; unpacking of good, damaged and malicious archives."""

import errno
import hashlib
import io
import os
import shutil
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from litlens.data.datasets.download import extract, fetch
from litlens.errors import UserError

CONTENT = b"images" * 400_000  # 2.4 MB: more than one chunk


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/silent":
            time.sleep(1)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/broken" else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize("path", ["file", "unsized"])
@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_downloaded_completely(server: str, tmp_path: Path, path: str, algorithm: str) -> None:
    target = tmp_path / "new" / "folder" / "data.bin"
    checksum = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    assert fetch([f"{server}/{path}"], target, checksum=checksum) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_exists_is_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"by hand")
    assert fetch(["http://127.0.0.1:9/none"], tmp_path / "data.bin").read_bytes() == b"by hand"


def test_the_next_mirror_is_tried(server: str, tmp_path: Path) -> None:
    fetch([f"{server}/missing", f"{server}/broken", f"{server}/file"], tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_one_line_says_what_failed_where_and_what_to_do(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litlens.data.datasets.download._TIMEOUT", 0.2)
    reasons = {
        f"{server}/missing": "Not Found",
        f"{server}/broken": f"the connection was closed after 1000 of {len(CONTENT)} bytes",
        f"{server}/silent": "timed out",
        "nonsense": "unknown url type: 'nonsense'",
        f"{server}/file": "the checksum of the file differs",
    }
    with pytest.raises(UserError) as caught:
        fetch(list(reasons), tmp_path / "data.bin", checksum=f"md5:{'0' * 32}")
    assert str(caught.value) == (
        f"data.bin is not in {tmp_path} and could not be downloaded "
        f"({'; '.join(f'{url}: {reason}' for url, reason in reasons.items())}): "
        "copy it there, or run once on a machine with network access and copy that folder"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_downloading(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("litlens.data.datasets.download.urlopen", full)
    with pytest.raises(UserError, match=r"no space is left for .*data\.bin: make room, or choose another folder"):
        fetch([server], tmp_path / "data.bin")
    assert list(tmp_path.iterdir()) == []


def tar(path: Path, members: dict[str, bytes], *, mode: str = "w:gz", link: str | None = None) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        if link:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
    return path


def plain_tar(path: Path, members: dict[str, bytes]) -> Path:
    return tar(path, members, mode="w")


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("make", [tar, zipped])
def test_every_file_is_unpacked(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / "archive", {"a/b.txt": b"b", "c.txt": b"c", "d..e.txt": b""})  # type: ignore[operator]
    folder = extract(archive, tmp_path / "out" / "here")
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "a/b.txt": b"b",
        "c.txt": b"c",
        "d..e.txt": b"",
    }
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/litlens-evil", "C:\\evil", "..\\evil"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, make: object, name: str) -> None:
    archive = make(tmp_path / "archive", {"good": b"", name: b"evil"})  # type: ignore[operator]
    with suppress(UserError):
        extract(archive, tmp_path / "out" / "here")
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"here"}
    assert not Path("/tmp/litlens-evil").exists()


@pytest.mark.parametrize("link", ["/etc/passwd", "../../passwd"])
def test_links_that_lead_outside_are_refused(tmp_path: Path, link: str) -> None:
    with pytest.raises(UserError, match=r"cannot be unpacked .*link"):
        extract(tar(tmp_path / "archive", {}, link=link), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# A plain tar file has no checksum of its contents: zeros among them are not noticed.
@pytest.mark.parametrize(
    ("make", "damage"),
    [(tar, "cut"), (tar, "zeros"), (plain_tar, "cut"), (zipped, "cut"), (zipped, "zeros")],
)
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, make: object, damage: str) -> None:
    archive = make(tmp_path / "archive", {f"{i}.txt": bytes([i]) * 10_000 for i in range(50)})  # type: ignore[operator]
    data = bytearray(archive.read_bytes())
    half = len(data) // 2
    archive.write_bytes(data[:half] if damage == "cut" else data[:half] + bytes(50) + data[half + 50 :])
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(tmp_path / "text", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "text"]


def test_a_full_disk_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"no space is left for .*out: make room"):
        extract(zipped(tmp_path / "archive", {"a": b""}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive", {"a": b""})
    for name, hours in ((".out.killed", 25), (".out.running", 1), (".output.other", 25)):
        (tmp_path / name / "out").mkdir(parents=True)
        then = time.time() - 3600 * hours
        os.utime(tmp_path / name, (then, then))
    extract(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.running", ".output.other", "archive", "out"]
