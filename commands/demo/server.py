"""The command `demo`: serves a local page for trying out trained networks, until a signal.

The server listens on this machine only, sends no requests to other hosts, and leaves no files. It
only answers browsers that opened the printed address, and only the routes that its page needs.
Gradio is imported only here and in `layout`.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qs

from commands.demo.layout import build
from commands.demo.offered import Networks
from commands.prediction import engines
from commands.settings import DemoConfig
from salience.system.errors import UserError
from salience.system.files import how_to_install, real_path, telling
from salience.system.terminal import tell

HOST = "127.0.0.1"  # unreachable from other machines
NAMES = ("127.0.0.1", "localhost")  # host names in requests of local browsers
LEAVE_SECONDS = 1  # time for open requests to finish after a signal
# Gradio's page has inline scripts and styles. The policy forbids requests to other hosts, and
# showing the page in a frame.
POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    b"font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"object-src 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),  # the page's address is secret
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]
# The routes that the page needs. Gradio has sixty more: some fetch addresses from requests, call
# functions of components, or write files. A new version may add others.
ROUTES = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/(assets|static)/.+|"
        r"/gradio_api/(heartbeat/\w+|queue/data|upload_progress|file=.+)"
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|run/predict|upload)"),
}
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
QUERIED = (UPLOAD, "/gradio_api/upload_progress", "/gradio_api/queue/data")
FOREIGN_PAGE = (403, "Requests from other pages are not allowed.")
NO_TOKEN = (403, "Open the address that the terminal printed: it contains the token of this page.")
NOT_FOUND = (404, "Not found.")


def run(settings: DemoConfig) -> bool:
    """Run the command `demo` until a signal ends it."""
    demo(settings)
    return True


def demo(settings: DemoConfig, say: Callable[[str], None] = tell) -> None:
    """Serve the page until a signal ends it.

    Args:
        settings: the networks, the port and the drawing.
        say: called with each message, such as the page's address.

    Raises:
        UserError: Gradio is not installed, there are no weights, or the port is in use.
    """
    if not engines.installed("gradio"):
        raise UserError(
            f"demo needs the package gradio, which is not installed in {sys.executable}. "
            + how_to_install("demo", "pip install --no-deps -r requirements/demo.lock")
        )
    networks = Networks.found(settings.weights, settings.weights_dir, settings.engine, say)
    with listening(settings.port) as listener:
        networks.engine(networks.names[0], say)  # so that the first picture need not wait for it
        with signal_event() as ended, temporary_folder() as folder:
            own = folder / "page"  # files outside this folder are never served
            own.mkdir()
            import_gradio(own)
            if not ended.is_set():
                root = f"/{secrets.token_urlsafe()}"
                app = build(networks, own, settings.colormap, settings.upload_bytes, root)
                guard = RequestGuard(app, listener.getsockname()[1], own, root)
                serve(guard, listener, settings.browser, ended, say)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens on this machine only.

    Raises:
        UserError: another program uses the port.
    """
    with socket.socket() as listener:
        if os.name == "posix":  # on Windows, the option would allow to take a port that is in use
            # otherwise the port would be blocked for a minute after the server has ended
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            raise UserError(
                f"--port {port} of {HOST} cannot be opened: {error.strerror}. Choose another port, "
                "or --port 0 for any free port."
            ) from error
        yield listener


def import_gradio(folder: Path) -> None:
    """Import Gradio without telemetry, without settings of the environment, writing into a folder.

    Args:
        folder: folder for Gradio's files; Gradio writes already during its import.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # could change the host, share the page, or serve other files
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    # the default is .gradio/ in the current folder, whose files would be served
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # for a library that Gradio imports
    import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]


@contextmanager
def signal_event() -> Iterator[Event]:
    """Yield an event that is set by a signal to end.

    The handler raises no exception, which could be lost during an import.
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
    """Yield a folder for all files of the page; it is removed at the end of the block.

    Other temporary files of this process are also made in this folder.
    """
    with telling(f"Cannot write in {tempfile.gettempdir()}", "set TMPDIR to another folder"):
        folder = tempfile.mkdtemp(prefix="saliency-demo-")
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def serve(
    guard: "RequestGuard",
    listener: socket.socket,
    browser: bool,
    ended: Event,
    say: Callable[[str], None],
) -> None:
    """Answer requests until a signal; report the address.

    Args:
        guard: the ASGI application.
        listener: the listening socket.
        browser: whether to open a browser.
        ended: event that ends the server.
        say: called with the address.
    """
    import uvicorn  # pyright: ignore[reportMissingImports]

    # suppress its warnings on malformed forms
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    class Server(uvicorn.Server):
        """Uvicorn server that ends when `ended` is set."""

        async def on_tick(self, counter: int) -> bool:
            """Return True to end the server; called ten times a second."""
            return await super().on_tick(counter) or ended.is_set()

    say(f"{guard.address} shows the page; Ctrl-C stops the server.")
    sys.stdout.flush()
    if browser:
        webbrowser.open(guard.address)  # requests before the start of the server wait
    config = uvicorn.Config(
        guard,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )
    Server(config).run(sockets=[listener])


class RequestGuard:
    """ASGI middleware that only answers the page itself, and forbids it requests to other hosts.

    Other users of this machine can send requests to the port, and so can pages of other hosts or
    ports in the same browser. So a request must have a token that changes with every start, and
    must not come from another page. It can only use the routes that the page needs.

    A browser sends a host's cookies to all its ports, where other programs may listen. So the page
    has a secret path, and the cookie is restricted to this path.

    Args:
        app: the ASGI application to protect.
        port: port of the server.
        folder: folder of the files that may be served.
        root: secret prefix of all paths of the page.

    Attributes:
        address: address that opens the page.
    """

    def __init__(self, app: Any, port: int, folder: Path, root: str) -> None:
        self._app, self._folder = app, real_path(folder)
        # browsers omit the default port
        self._hosts = {f"{name}:{port}" for name in NAMES} | set(NAMES if port == 80 else ())
        self._token, self._cookie = secrets.token_urlsafe(), secrets.token_urlsafe()
        self._root, self._name = root, f"salience-{port}"
        self._uploads = 0
        self.address = f"http://{HOST}:{port}/?token={self._token}"

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # the page uses no websockets
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope)
        if not self._is_own(request):
            return await refuse(send, *FOREIGN_PAGE)
        is_start = request.path == "/" and request.method == "GET"
        if is_start and matches(request.token, self._token):
            return await self._set_cookie(send)
        if not any(matches(value, self._cookie) for value in request.cookies(self._name)):
            return await refuse(send, *NO_TOKEN)
        path = request.path.removeprefix(self._root)
        if path == request.path or not self._is_allowed(request.method, path):
            return await refuse(send, *NOT_FOUND)
        scope = {**scope, "root_path": self._root}
        if path not in QUERIED:  # Gradio reads file names from other queries
            scope["query_string"] = b""
        async with self._swept(path):
            await self._app(scope, receive, guarded(send))

    def _is_own(self, request: "Request") -> bool:
        """Return True if a request comes from the page itself, or opens it.

        The host name is checked, as the name of another host can point to this machine.
        """
        hosts, origins = request.all(b"host"), request.all(b"origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return False
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return False
        opens = request.method == "GET" and request.path in ("/", f"{self._root}/")
        if opens and request.all(b"sec-fetch-mode") in ([], ["navigate"]):
            return True
        return all(site == "same-origin" for site in request.all(b"sec-fetch-site"))

    async def _set_cookie(self, send: Callable) -> None:
        """Set the cookie of a browser, and redirect it to the address without the token."""
        cookie = f"{self._name}={self._cookie}; Path={self._root}/; HttpOnly; SameSite=Strict"
        headers = [(b"location", f"{self._root}/".encode()), (b"set-cookie", cookie.encode())]
        await answer(send, 303, "", [*headers, (b"cache-control", b"no-store")])

    def _is_allowed(self, method: str, path: str) -> bool:
        """Return True for a route that the page needs."""
        routes = ROUTES.get(method)
        if not routes or not routes.fullmatch(path):
            return False
        return not path.startswith(FILE) or self._lies_inside(path.removeprefix(FILE))

    def _lies_inside(self, path: str) -> bool:
        """Return True for the path of a file in the folder, but not for a URL."""
        try:
            found = real_path(Path(path))
            return found.is_relative_to(self._folder) and found.is_file()
        except (OSError, ValueError):  # too long, or with invalid bytes
            return False

    @asynccontextmanager
    async def _swept(self, path: str) -> AsyncIterator[None]:
        """Remove the files of aborted uploads after an upload, if no other is running.

        By then, complete files have been moved into folders of their own.
        """
        if path != UPLOAD:
            yield
            return
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1
            if not self._uploads:
                for part in self._folder.iterdir():
                    if part.is_file():
                        with suppress(OSError):  # Windows cannot remove open files
                            part.unlink()


class Request:
    """The parts of a request that are checked.

    Args:
        scope: the request (ASGI).
    """

    def __init__(self, scope: dict[str, Any]) -> None:
        self.method, self.path = scope["method"], scope["path"]
        self._headers, self._query = scope["headers"], scope.get("query_string", b"")

    def all(self, name: bytes) -> list[str]:
        """Return all values of a header, which may occur several times."""
        return [value.decode("latin-1") for key, value in self._headers if key == name]

    @property
    def token(self) -> str:
        """The token in the address, or an empty string."""
        try:
            return parse_qs(self._query.decode("latin-1")).get("token", [""])[0]
        except ValueError:  # too many fields
            return ""

    def cookies(self, name: str) -> list[str]:
        """Return the values of a cookie; programs on other ports may have set malformed ones."""
        parts = [part for line in self.all(b"cookie") for part in line.split(";")]
        pairs = [part.strip().partition("=") for part in parts]
        return [value for key, _, value in pairs if key == name]


def matches(given: str, secret: str) -> bool:
    """Return True if a value equals a secret, in constant time."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def guarded(send: Callable) -> Callable:
    """Return a `send` that adds HEADERS and removes CORS headers."""

    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (key, value)
                for key, value in message.get("headers", [])
                if not key.lower().startswith(b"access-control-")
            ]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return sent


async def answer(
    send: Callable, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer a request with a line of text."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    start = {"type": "http.response.start", "status": status, "headers": [kind, *(headers or [])]}
    send = guarded(send)
    await send(start)
    await send({"type": "http.response.body", "body": text.encode()})


async def refuse(send: Callable, status: int, text: str) -> None:
    """Refuse a request without waiting for its body."""
    await answer(send, status, text, [(b"connection", b"close")])
