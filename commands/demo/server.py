"""What `demo` does: serve a local page on which trained networks are tried out, until a signal.

It listens on this machine alone, asks no other host for anything, and leaves no file behind.
Gradio, whose page it is, is imported here and in `page`, and needed by nothing else.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from commands.demo.layout import build
from commands.demo.offered import Networks
from commands.prediction import engines
from commands.settings import DemoConfig
from salience.system.errors import UserError
from salience.system.files import telling
from salience.system.terminal import tell

HOST = "127.0.0.1"  # no other machine reaches this one by it
NAMES = (b"127.0.0.1", b"localhost")  # what a browser here calls it, at whatever port
LEAVE_SECONDS = 1  # that an open page has once a signal has come
# Gradio's page has scripts and styles inside itself. From other hosts it gets nothing, whatever it
# asks for, and none may show it inside a page of its own.
POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    b"font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"object-src 'none'; frame-ancestors 'none'"
)


def demo(settings: DemoConfig, say: Callable[[str], None] = tell) -> None:
    """Serve the page until a signal ends it.

    Args:
        settings: which networks it offers, and where.
        say: gets the page's address, and what went wrong before.

    Raises:
        UserError: Gradio is not installed, there are no weights, or the port is taken.
    """
    if not engines.installed("gradio"):
        raise UserError(
            f"demo needs the package gradio, which is not installed in {sys.executable}. "
            "pip install --no-deps -r requirements/demo.lock"
        )
    networks = Networks.found(settings, say)
    with listening(settings.port) as door:
        networks.engine(networks.names[0], say)  # so that the first picture does not wait for it
        with heard() as ended, temporary_folder() as folder:
            import_gradio(folder)
            if not ended.is_set():
                serve(build(networks, folder, settings), door, settings, ended, say)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket at which the page is asked for, by this machine alone.

    Raises:
        UserError: another program listens there.
    """
    with socket.socket() as door:
        if os.name == "posix":  # else it could take another's port
            # or the port could not be had for a minute after the last page
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
            door.listen()
        except OSError as error:
            raise UserError(
                f"--port {port} of {HOST} cannot be had: {error.strerror}. Choose another, or "
                "--port 0 for any that is free."
            ) from error
        yield door


def import_gradio(folder: Path) -> None:
    """Import Gradio so that it reports nothing, heeds no settings of others, writes into a folder.

    Args:
        folder: for all that it writes, which begins with its import.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # they would have it listen elsewhere, share the page, show files
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # of a library that it imports
    import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]


@contextmanager
def heard() -> Iterator[Event]:
    """Yield what says whether a signal has come that ends the page.

    Nothing is raised where one comes: in the middle of an import that may be lost.
    """
    ended, before = Event(), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: ended.set())
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for all that the page writes; it is removed however the block ends."""
    with telling(f"Cannot write in {tempfile.gettempdir()}", "set TMPDIR to another folder"):
        folder = tempfile.mkdtemp(prefix="saliency-demo-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve(
    app: Any,
    door: socket.socket,
    settings: DemoConfig,
    ended: Event,
    say: Callable[[str], None],
) -> None:
    """Answer who asks at the door, until a signal; one line says where it is.

    Args:
        app: what answers (ASGI).
        door: the socket.
        settings: whether to open a browser.
        ended: whether a signal has come.
        say: gets the address.
    """
    import uvicorn  # pyright: ignore[reportMissingImports]

    class Server(uvicorn.Server):
        """Uvicorn, that hears of every signal by `ended`."""

        async def on_tick(self, counter: int) -> bool:
            """Return whether to end; ten times a second."""
            return await super().on_tick(counter) or ended.is_set()

    address = f"http://{HOST}:{door.getsockname()[1]}"
    say(f"{address} shows the page; Ctrl-C ends it.")
    sys.stdout.flush()
    if settings.browser:
        webbrowser.open(address)  # who asks before the server runs waits for it
    how = uvicorn.Config(
        Guard(app), log_level="critical", access_log=False, timeout_graceful_shutdown=LEAVE_SECONDS
    )
    Server(how).run(sockets=[door])


class Guard:
    """Answers this machine's own page alone, and forbids it to ask other hosts for anything.

    A page of another host, open in the same browser, can send requests here, too, and could read
    what comes back where its own name has been made to lead here: so the name is looked at.

    Args:
        app: what answers (ASGI).
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        strange = headers.get(b"host", b"").partition(b":")[0] not in NAMES
        foreign = headers.get(b"sec-fetch-site") == b"cross-site" and scope["path"] != "/"
        if strange or foreign:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            return await send({"type": "http.response.body", "body": b"Not from here."})

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY)
                message["headers"] = [*message.get("headers", []), policy]
            await send(message)

        await self.app(scope, receive, guarded)
