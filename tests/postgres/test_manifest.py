from __future__ import annotations

import hashlib
import json

import pytest

from holdfast.errors import Damaged
from holdfast.postgres.manifest import ManifestFile, compare, parse_manifest


def _file(content: bytes) -> ManifestFile:
    return ManifestFile(size=len(content), sha256=hashlib.sha256(content).digest())


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
    manifest = parse_manifest(_manifest())
    assert dict(manifest.files) == RECEIVED
    assert manifest.system_identifier == 7711011992693367329
    (wal,) = manifest.wal_ranges
    assert (wal.timeline, str(wal.start), str(wal.end)) == (1, "0/2000028", "0/2000120")
    compare(manifest, RECEIVED)


def test_any_changed_byte_is_noticed() -> None:
    data = bytearray(_manifest())
    for position in range(len(data)):
        data[position] ^= 1
        with pytest.raises(Damaged, match="backup_manifest"):
            parse_manifest(bytes(data))
        data[position] ^= 1


def test_a_truncated_manifest_is_noticed() -> None:
    data = _manifest()
    for length in range(len(data)):
        with pytest.raises(Damaged):
            parse_manifest(data[:length])


def test_another_version_or_algorithm_is_refused() -> None:
    with pytest.raises(Damaged, match="version 3"):
        parse_manifest(_manifest(version=3))
    bad = {"Path": "a", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "00"}
    with pytest.raises(Damaged, match="CRC32C"):
        parse_manifest(_manifest(Files=[bad]))


def test_a_difference_names_the_file() -> None:
    manifest = parse_manifest(_manifest())
    with pytest.raises(Damaged, match=r"not what the server read: PG_VERSION$"):
        compare(manifest, RECEIVED | {"PG_VERSION": _file(b"16\n")})
    with pytest.raises(Damaged, match="absent: PG_VERSION"):
        compare(manifest, {"pg_\udcff": _file(b"x")})
    with pytest.raises(Damaged, match="not announced: extra0, extra1, extra2, extra3, extra4 and 2 more"):
        compare(manifest, RECEIVED | {f"extra{number}": _file(b"") for number in range(7)})
