"""A TCP relay that can fall silent: connections stay open and nothing passes, as behind a cable that was pulled."""

from __future__ import annotations

import selectors
import socket
import threading


class Relay:
    """Passes bytes both ways between its own port and `target` until told otherwise. Ends with the `with` block."""

    def __init__(self, target: tuple[str, int]):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.selector = selectors.DefaultSelector()
        self.peers: dict[socket.socket, socket.socket] = {}
        self.stalled = threading.Event()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Relay:
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join(5)
        for plain in list(self.peers):
            plain.close()
        self.listener.close()

    def stall(self) -> None:
        """From now on no byte passes, nothing is closed and nobody new gets through."""
        self.stalled.set()

    def resume(self) -> None:
        """New connections pass again; the old ones are as good as gone and are reset."""
        for plain in list(self.peers):
            self.drop(plain)
        self.stalled.clear()

    def run(self) -> None:
        while not self.ending.is_set():
            if self.stalled.is_set():
                self.ending.wait(0.05)
                continue
            for key, _ in self.selector.select(0.1):
                if self.stalled.is_set():
                    break
                self.accept() if key.fileobj is self.listener else self.carry(key.fileobj)

    def accept(self) -> None:
        try:
            near, _ = self.listener.accept()
            far = socket.create_connection(self.target, 2)
        except OSError:
            return
        for one, other in ((near, far), (far, near)):
            self.peers[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def carry(self, plain: socket.socket) -> None:
        other = self.peers.get(plain)
        if other is None:
            return
        try:
            data = plain.recv(65536)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            self.drop(plain)

    def drop(self, plain: socket.socket) -> None:
        other = self.peers.pop(plain, None)
        for one in filter(None, (plain, other)):
            self.peers.pop(one, None)
            try:
                self.selector.unregister(one)
            except (KeyError, ValueError):
                pass
            one.close()
