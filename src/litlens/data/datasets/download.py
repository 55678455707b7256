"""Download files and unpack archives: completely or not at all, and never outside their folder."""

import glob
import hashlib
import lzma
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from litlens.data.progress import progress
from litlens.errors import UserError
from litlens.files import disk_errors, is_disk_full

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a response
_SECONDS_A_DAY = 86_400
# What zipfile, tarfile and their decompressors raise for a damaged, encrypted or unknown archive.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    EOFError, NotImplementedError, OSError, RuntimeError, ValueError,
)  # fmt: skip


def fetch(urls: Sequence[str], target: Path, *, checksum: str | None = None) -> Path:
    """Download a file to `target` from the first mirror that has it, unless the file exists.

    Args:
        urls: The mirrors, in the order in which they are tried.
        target: The path of the file; missing folders are created.
        checksum: The algorithm and the digest of the file, as in `md5:f68b3c…`.

    Raises:
        UserError: The file cannot be written, or no mirror has the file with this checksum.
    """
    if target.is_file():
        return target
    failures = []
    for url in urls:
        with _unfinished(target) as unfinished:
            try:
                _download(url, unfinished, checksum=checksum)
            # URLError, time-outs and refused connections are OSErrors; a bad address is a ValueError.
            except (OSError, HTTPException, ValueError) as error:
                if is_disk_full(error):
                    raise
                failures.append(f"{url}: {_reason(error)}")
                continue
            unfinished.replace(target)
            return target
    raise UserError(
        f"{target.name} is not in {target.parent} and could not be downloaded ({'; '.join(failures)}): "
        "copy it there, or run once on a machine with network access and copy that folder"
    )


def extract(archive: Path, folder: Path, *, inner: str = "") -> Path:
    """Unpack a zip or tar archive, or the folder `inner` in it, to `folder`; completely or not at all.

    Nothing is written outside `folder`: `zipfile` drops the parts of a name that lead out of it, and `tarfile`'s filter
    refuses such names and links.

    Raises:
        UserError: The archive is damaged, unsafe or not an archive, lacks `inner`, or there is no room for its content.
    """
    with _unfinished(folder) as unfinished:
        unfinished.mkdir()
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    for entry in progress(zipped.infolist(), description=f"Unpacking {archive.name}"):
                        zipped.extract(entry, unfinished)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(unfinished, filter="data")
                    _check_end(tar)
        except _DAMAGE as error:
            if is_disk_full(error):
                raise
            raise UserError(
                f"{archive} cannot be unpacked ({_reason(error)}); remove it to download it again"
            ) from error
        if not (unfinished / inner).is_dir():
            raise UserError(
                f"{archive} has no folder {inner}: it is not the expected archive; remove it to download it again"
            )
        return (unfinished / inner).replace(folder)


def _download(url: str, path: Path, *, checksum: str | None) -> None:
    # torch.hub.download_url_to_file has no timeout and accepts a truncated response. Both happen:
    # https://github.com/torchgeo/torchgeo/issues/4067 and https://github.com/torchgeo/torchgeo/pull/4053.
    algorithm, _, expected = (checksum or "md5:").partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    request = Request(url, headers={"User-Agent": "litlens"})  # some servers refuse Python's default
    with urlopen(request, timeout=_TIMEOUT) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        chunks = iter(lambda: answer.read(_CHUNK), b"")
        for chunk in progress(chunks, description=f"Downloading {path.name} (MiB)", total=-(-size // _CHUNK) or None):
            file.write(chunk)
            digest.update(chunk)
        if size and file.tell() != size:
            raise HTTPException(f"the connection was closed after {file.tell()} of {size} bytes")
    if expected not in ("", digest.hexdigest()):
        raise ValueError("the checksum of the file differs")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise where tarfile mistook damage for the end of the archive: only zeros may follow the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    # Reading to the end also checks the checksum of a compressed archive.
    for rest in iter(lambda: tar.fileobj.read(_CHUNK), b""):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("damaged")


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `target`, from which the finished file or folder is renamed."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f".{glob.escape(target.name)}.*"):
            # Of a killed process: no download takes a day.
            if old.is_dir() and time.time() - old.stat().st_mtime > _SECONDS_A_DAY:
                shutil.rmtree(old, ignore_errors=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder) / target.name


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
