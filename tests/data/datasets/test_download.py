"""Fetching from a server on this machine; unpacking archives that mean well and archives that don't."""

import errno
import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from litlens.data.datasets.download import NotFetched, extract, fetch
from litlens.errors import UserError

CONTENT = b"images" * 400_000  # 2.4 MB: more than one chunk


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
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
def test_fetches_a_whole_file(server: str, tmp_path: Path, path: str) -> None:
    target = tmp_path / "new" / "folder" / "data.bin"
    md5, sha256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest().upper()
    assert fetch(f"{server}/{path}", target, md5=md5, sha256=sha256) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_what_is_there_is_not_fetched(tmp_path: Path) -> None:
    target = tmp_path / "data.bin"
    target.write_bytes(b"by hand")
    assert fetch("http://127.0.0.1:9/none", target).read_bytes() == b"by hand"
    assert fetch("http://127.0.0.1:9/none", target, md5=hashlib.md5(b"by hand").hexdigest()) == target


def test_a_wrong_file_that_is_there_is_fetched_anew(server: str, tmp_path: Path) -> None:
    target = tmp_path / "data.bin"
    target.write_bytes(b"half")
    fetch(f"{server}/file", target, md5=hashlib.md5(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT


def test_the_next_mirror_serves(server: str, tmp_path: Path) -> None:
    fetch([f"{server}/missing", f"{server}/broken", f"{server}/file"], tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_one_line_says_what_was_looked_for_where_and_what_to_do(server: str, tmp_path: Path) -> None:
    target = tmp_path / "data.bin"
    urls = [f"{server}/missing", f"{server}/broken", "http://127.0.0.1:9/refused", "nonsense"]
    with pytest.raises(UserError) as caught:
        fetch([*urls, f"{server}/file"], target, md5="0" * 32, timeout=5)
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(f"data.bin is not in {tmp_path} and could not be fetched")
    assert all(url in told for url in urls)
    assert f"broke after 1000 of {len(CONTENT)} bytes" in told
    assert "checksum differs" in told
    assert f"put the file there by hand, or run once on a machine with network and copy {tmp_path}" in told
    assert list(tmp_path.iterdir()) == []


def test_the_reason_alone_names_no_place_and_nothing_twice(server: str, tmp_path: Path) -> None:
    with pytest.raises(NotFetched) as caught:
        fetch([f"{server}/missing", f"{server}/missing/too", f"{server}/file"], tmp_path / "data.bin", md5="0" * 32)
    reason = "Not Found; what came is another file than expected (its checksum differs)"
    assert caught.value.reason == reason


def test_a_full_disk_while_fetching(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("litlens.data.datasets.download.urlopen", full)
    with pytest.raises(UserError, match="no space is left"):
        fetch(server, tmp_path / "data.bin")


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
def test_unpacks(tmp_path: Path, make: object) -> None:
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


# A plain tar file has no checksum of its contents: zeros among them cannot be told.
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
    (tmp_path / "text").write_text("no archive at all")
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(tmp_path / "text", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "text"]


def test_a_full_disk_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="no space is left to unpack"):
        extract(zipped(tmp_path / "archive", {"a": b""}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
