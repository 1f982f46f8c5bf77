"""What `demo` does: serve a local page on which trained networks are tried out, until a signal.

It listens on this machine alone, asks no other host for anything, and leaves no file behind. It
answers who opened the address that it prints, and of Gradio's many routes those of its own page.
Gradio, whose page it is, is imported here and in `layout`, and needed by nothing else.
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

HOST = "127.0.0.1"  # no other machine reaches this one by it
NAMES = ("127.0.0.1", "localhost")  # what a browser here calls it
LEAVE_SECONDS = 1  # that an open page has once a signal has come
# Gradio's page has scripts and styles inside itself. From other hosts it gets nothing, whatever it
# asks for, and none may show it inside a page of its own.
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
# What the page itself asks for. Gradio has sixty routes more: some fetch addresses that a client
# names, call what a component offers, or write files; a new version may bring others.
ROUTES = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/(assets|static)/.+|"
        r"/gradio_api/(heartbeat/\w+|queue/data|upload_progress|file=.+)"
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|run/predict|upload)"),
}
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
QUERIED = (UPLOAD, "/gradio_api/upload_progress", "/gradio_api/queue/data")
NOT_FROM_HERE = (403, "Not from here.")
NO_TOKEN = (403, "Open the address that the terminal printed: it has the token of this page.")
NOTHING_HERE = (404, "There is nothing here.")


def run(settings: DemoConfig) -> bool:
    """Carry out `demo`, until a signal ends it."""
    demo(settings)
    return True


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
            + how_to_install("demo", "pip install --no-deps -r requirements/demo.lock")
        )
    networks = Networks.found(settings.weights, settings.weights_dir, settings.engine, say)
    with listening(settings.port) as door:
        networks.engine(networks.names[0], say)  # so that the first picture does not wait for it
        with heard() as ended, temporary_folder() as folder:
            own = folder / "page"  # what is written beside it is served to nobody
            own.mkdir()
            import_gradio(own)
            if not ended.is_set():
                root = f"/{secrets.token_urlsafe()}"
                app = build(networks, own, settings.colormap, settings.upload_bytes, root)
                guard = RequestGuard(app, door.getsockname()[1], own, root)
                serve(guard, door, settings.browser, ended, say)


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
    # else it serves what lies in .gradio/ where the program was started
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
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
    """Yield a folder for all that the page writes; it is removed however the block ends.

    Whatever of this process asks for a temporary file meanwhile gets it there, too.
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
    door: socket.socket,
    browser: bool,
    ended: Event,
    say: Callable[[str], None],
) -> None:
    """Answer who asks at the door, until a signal; one line says where it is.

    Args:
        guard: what answers.
        door: the socket.
        browser: whether to open one.
        ended: whether a signal has come.
        say: gets the address.
    """
    import uvicorn  # pyright: ignore[reportMissingImports]

    # its warnings, of forms that are none, are for who sent them
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    class Server(uvicorn.Server):
        """Uvicorn, that hears of every signal by `ended`."""

        async def on_tick(self, counter: int) -> bool:
            """Return whether to end; ten times a second."""
            return await super().on_tick(counter) or ended.is_set()

    say(f"{guard.address} shows the page; Ctrl-C ends it.")
    sys.stdout.flush()
    if browser:
        webbrowser.open(guard.address)  # who asks before the server runs waits for it
    how = uvicorn.Config(
        guard,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )
    Server(how).run(sockets=[door])


class RequestGuard:
    """Answers this machine's own page alone, and forbids it to ask other hosts for anything.

    Other users of this machine can send requests here, and so can pages of other hosts, or of
    other ports here, that are open in the same browser. So what asks must know a token that is new
    with every start, must not come from another page, and gets nothing but what the page needs.

    A browser sends a cookie to every port of a host, and thereby to whoever listens there. So the
    page lies below a folder that nobody can guess, and the cookie is for that folder alone.

    Args:
        app: what answers (ASGI).
        port: at which it is asked.
        folder: of the files that it may give away.
        root: what stands before every path of the page, a secret.

    Attributes:
        address: what opens the page.
    """

    def __init__(self, app: Any, port: int, folder: Path, root: str) -> None:
        self._app, self._folder = app, real_path(folder)
        # browsers leave out the port that they take where none is given
        self._hosts = {f"{name}:{port}" for name in NAMES} | set(NAMES if port == 80 else ())
        self._token, self._cookie = secrets.token_urlsafe(), secrets.token_urlsafe()
        self._root, self._name = root, f"salience-{port}"
        self._uploads = 0
        self.address = f"http://{HOST}:{port}/?token={self._token}"

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # the page has no use for a websocket
            return await send({"type": "websocket.close", "code": 1008})
        asked = Asked(scope)
        if not self._own(asked):
            return await refuse(send, *NOT_FROM_HERE)
        if asked.path == "/" and asked.method == "GET" and same(asked.token, self._token):
            return await self._let_in(send)
        if not any(same(value, self._cookie) for value in asked.cookies(self._name)):
            return await refuse(send, *NO_TOKEN)
        path = asked.path.removeprefix(self._root)
        if path == asked.path or not self._offered(asked.method, path):
            return await refuse(send, *NOTHING_HERE)
        scope = {**scope, "root_path": self._root}
        if path not in QUERIED:  # Gradio takes names of files by others
            scope["query_string"] = b""
        async with self._swept(path):
            await self._app(scope, receive, guarded(send))

    def _own(self, asked: "Asked") -> bool:
        """Return whether a request comes from the page itself, or opens it.

        A page of another host can have its own name lead here: so the name is looked at.
        """
        hosts, origins = asked.all(b"host"), asked.all(b"origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return False
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return False
        opens = asked.method == "GET" and asked.path in ("/", f"{self._root}/")
        if opens and asked.all(b"sec-fetch-mode") in ([], ["navigate"]):
            return True
        return all(site == "same-origin" for site in asked.all(b"sec-fetch-site"))

    async def _let_in(self, send: Callable) -> None:
        """Give a browser the cookie, and send it on to where the token is not in the address."""
        cookie = f"{self._name}={self._cookie}; Path={self._root}/; HttpOnly; SameSite=Strict"
        headers = [(b"location", f"{self._root}/".encode()), (b"set-cookie", cookie.encode())]
        await answer(send, 303, "", [*headers, (b"cache-control", b"no-store")])

    def _offered(self, method: str, path: str) -> bool:
        """Return whether the page needs what is asked for."""
        routes = ROUTES.get(method)
        if not routes or not routes.fullmatch(path):
            return False
        return not path.startswith(FILE) or self._lies_inside(path.removeprefix(FILE))

    def _lies_inside(self, path: str) -> bool:
        """Return whether a path is that of a file in the folder; an address is none."""
        try:
            found = real_path(Path(path))
            return found.is_relative_to(self._folder) and found.is_file()
        except (OSError, ValueError):  # too long; of bytes that no path has
            return False

    @asynccontextmanager
    async def _swept(self, path: str) -> AsyncIterator[None]:
        """Remove what an upload that broke off leaves, once no other is under way.

        A file that came whole has been moved into a folder of its own by then.
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
                        with suppress(OSError):  # Windows removes none that is open
                            part.unlink()


class Asked:
    """What is looked at of a request.

    Args:
        scope: the request (ASGI).
    """

    def __init__(self, scope: dict[str, Any]) -> None:
        self.method, self.path = scope["method"], scope["path"]
        self._headers, self._query = scope["headers"], scope.get("query_string", b"")

    def all(self, name: bytes) -> list[str]:
        """Return a header's values, one for each time that it stands there."""
        return [value.decode("latin-1") for key, value in self._headers if key == name]

    @property
    def token(self) -> str:
        """The token in the address; empty where there is none."""
        try:
            return parse_qs(self._query.decode("latin-1")).get("token", [""])[0]
        except ValueError:  # more fields than are taken
            return ""

    def cookies(self, name: str) -> list[str]:
        """Return the values of a cookie; programs at other ports may have set more of any form."""
        parts = [part for line in self.all(b"cookie") for part in line.split(";")]
        pairs = [part.strip().partition("=") for part in parts]
        return [value for key, _, value in pairs if key == name]


def same(given: str, secret: str) -> bool:
    """Return whether a secret was given; how long it takes says nothing of it."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def guarded(send: Callable) -> Callable:
    """Return what sends an answer that no page but this one may read, whoever wrote it."""

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
    """Refuse a request; its body, if any, is not waited for."""
    await answer(send, status, text, [(b"connection", b"close")])
