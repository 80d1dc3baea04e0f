from __future__ import annotations

import hashlib
import io
import json
import tracemalloc

import pytest

from holdfast.errors import Damaged
from holdfast.postgres.manifest import Manifest, check_manifest, signature


def _file(content: bytes) -> bytes:
    return signature(len(content), hashlib.sha256(content).digest())


def _check(data: bytes, received: dict[str, bytes] | None = None) -> Manifest:
    return check_manifest(io.BytesIO(data), dict(RECEIVED if received is None else received))


def _manifest(version: int = 2, **changes: object) -> bytes:
    def entry(content: bytes, **path: str) -> dict[str, object]:
        return {
            **path,
            "Size": len(content),
            "Last-Modified": "2026-11-22 15:04:46 GMT",
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(content).hexdigest(),
        }

    content = {
        "PostgreSQL-Backup-Manifest-Version": version,
        "System-Identifier": 7711011992693367329,
        "Files": [entry(b"15\n", Path="PG_VERSION"), entry(b"x", **{"Encoded-Path": b"pg_\xff".hex()})],
        "WAL-Ranges": [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120"}],
        **changes,
    }
    body = json.dumps(content)[:-1].encode() + b',\n"Manifest-Checksum": "'
    signed = body[: body.rindex(b'"Manifest-Checksum"')]
    return signed + b'"Manifest-Checksum": "' + hashlib.sha256(signed).hexdigest().encode() + b'"}\n'


RECEIVED = {"PG_VERSION": _file(b"15\n"), "pg_\udcff": _file(b"x")}


def test_a_manifest_is_read() -> None:
    received = dict(RECEIVED)
    manifest = check_manifest(io.BytesIO(_manifest()), received)
    assert not received
    assert manifest.system_identifier == 7711011992693367329
    (wal,) = manifest.wal_ranges
    assert (wal.timeline, str(wal.start), str(wal.end)) == (1, "0/2000028", "0/2000120")


def test_any_changed_byte_is_noticed() -> None:
    for data in (bytearray(_manifest()), bytearray(_as_the_server_writes(3)[0])):
        for position in range(len(data)):
            data[position] ^= 1
            with pytest.raises(Damaged, match="backup_manifest"):
                _check(bytes(data))
            data[position] ^= 1


def test_a_truncated_manifest_is_noticed() -> None:
    for data in (_manifest(), _as_the_server_writes(3)[0]):
        for length in range(len(data)):
            with pytest.raises(Damaged):
                _check(data[:length])


def test_another_version_or_algorithm_is_refused() -> None:
    with pytest.raises(Damaged, match="version 3"):
        _check(_manifest(version=3))
    bad = {"Path": "a", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "00"}
    with pytest.raises(Damaged, match="CRC32C"):
        _check(_manifest(Files=[bad]))


def test_a_difference_names_the_file() -> None:
    with pytest.raises(Damaged, match=r"not what the server read: PG_VERSION$"):
        _check(_manifest(), RECEIVED | {"PG_VERSION": _file(b"16\n")})
    with pytest.raises(Damaged, match="absent: PG_VERSION"):
        _check(_manifest(), {"pg_\udcff": _file(b"x")})
    with pytest.raises(Damaged, match="not announced: extra0, extra1, extra2, extra3, extra4 and 2 more"):
        _check(_manifest(), RECEIVED | {f"extra{number}": _file(b"") for number in range(7)})


def _as_the_server_writes(files: int) -> tuple[bytes, dict[str, bytes]]:
    """One file a line; and what was received."""
    received, lines = {}, []
    for number in range(files):
        path, content = f"base/5/{number}", str(number).encode()
        received[path] = _file(content)
        lines.append(
            f'{{ "Path": "{path}", "Size": {len(content)}, "Last-Modified": "2026-11-22 15:04:46 GMT", '
            f'"Checksum-Algorithm": "SHA256", "Checksum": "{hashlib.sha256(content).hexdigest()}" }}'
        )
    signed = (
        '{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [\n' + ",\n".join(lines) + '\n],\n"WAL-Ranges": [\n'
        '{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120" }\n],\n'
    ).encode()
    return signed + b'"Manifest-Checksum": "' + hashlib.sha256(signed).hexdigest().encode() + b'"}\n', received


def test_many_files_are_compared_in_little_memory() -> None:
    data, received = _as_the_server_writes(10_000)
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        manifest = check_manifest(file, received)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not received
    assert manifest.system_identifier is None
    assert peak < 500_000  # the manifest itself has 2 MB
