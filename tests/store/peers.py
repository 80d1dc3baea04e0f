"""Peers that misbehave: a listener, each of whose connections is served by a given function in a thread of ours."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

Serve = Callable[[socket.socket, threading.Event], None]
"""Serves one connection until done; the event says that the test is over."""


@contextmanager
def peer(serve: Serve) -> Iterator[str]:
    """The address, ``127.0.0.1:port``, of a peer that hands each connection to ``serve``."""
    over = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def run(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _address = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=run, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def requests(connection: socket.socket) -> Iterator[Request]:
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            method, target, _version = line.decode().split()
            headers: dict[str, str] = {}
            while (header := stream.readline().decode().strip()) != "":
                key, _colon, value = header.partition(":")
                headers[key.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", "0")))
            yield Request(method=method, target=target, headers=headers, body=body)


def answer(connection: socket.socket, status: int, body: bytes = b"", *, head: str = "") -> None:
    connection.sendall(f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)


def answering(status: int, body: bytes = b"") -> Serve:
    """Always the same, whatever was asked."""

    def serve(connection: socket.socket, over: threading.Event) -> None:
        for _request in requests(connection):
            answer(connection, status, body)

    return serve


def silent(connection: socket.socket, over: threading.Event) -> None:
    """Takes all that is sent and never answers."""
    while connection.recv(1 << 16):
        pass


def deaf(connection: socket.socket, over: threading.Event) -> None:
    """Does not even read."""
    over.wait()


def resetting(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def dripping(connection: socket.socket, over: threading.Event) -> None:
    """Promises 1,000 bytes and sends one every 50 ms."""
    for _request in requests(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.05):
            connection.sendall(b"x")


def breaking_off(connection: socket.socket, over: threading.Event) -> None:
    """Promises 1,000 bytes and closes after three."""
    for _request in requests(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        return


def forwarding(
    address: str, meddle: Callable[[Request], int | None], *, after: bool = False, drop_range: bool = False
) -> Serve:
    """A proxy before ``address``: where ``meddle`` gives a status, the client gets that instead of the answer.

    With ``after`` the request is carried out all the same; with ``drop_range`` ranges are not passed on.
    """

    def forward(request: Request) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            kept = {key: value for key, value in request.headers.items() if not (drop_range and key == "range")}
            connection.request(request.method, request.target, request.body, kept)
            response = connection.getresponse()
            head = "".join(
                f"{key}: {value}\r\n"
                for key, value in response.getheaders()
                if key.lower() not in {"content-length", "connection", "transfer-encoding"}
            )
            return response.status, response.read(), head
        finally:
            connection.close()

    def serve(connection: socket.socket, over: threading.Event) -> None:
        for request in requests(connection):
            instead = meddle(request)
            if instead is not None and not after:
                answer(connection, instead)
                continue
            status, body, head = forward(request)
            if instead is not None:
                answer(connection, instead)
            else:
                answer(connection, status, body, head=head)

    return serve
