"""Start the web app on this machine, for this user only."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from starlette.applications import Starlette

ADDRESS = "127.0.0.1"
PAUSE_S = 2.0


def create_app(runs_folder: Path | None, token: str, data: Path | None = None) -> Starlette:
    """The web app as an ASGI application.

    Args:
        runs_folder: the folder that holds run folders, or groups of run folders; None for none.
        token: the secret without which nothing is shown; at least 16 characters.
        data: a folder of recordings to play and to try models on; None for generated signals, shown as such.

    Raises:
        ClisonixError: a folder does not exist, the token is too short, or the extra `demo` is missing.
    """
    for folder, what in ((runs_folder, "your runs"), (data, "your recordings")):
        if folder is not None and not Path(folder).is_dir():
            raise ClisonixError(f"{folder} is not a folder: give the folder that holds {what}")
    if len(token) < 16:
        raise ClisonixError("the token is shorter than 16 characters: use secrets.token_urlsafe()")
    with _extra():
        from clisonix.demo.app import build_app

        return build_app(
            None if runs_folder is None else Path(runs_folder), token, None if data is None else Path(data)
        )


def serve(runs_folder: Path | None, port: int = 0, open_browser: bool = False, data: Path | None = None) -> None:
    """Serve the web app on the loopback interface until interrupted, and print the address to open.

    Args:
        runs_folder: the folder that holds the runs; None for none.
        port: the TCP port; 0 takes a free one.
        open_browser: also open the address in the default browser.
        data: a folder of recordings; None for generated signals.

    Raises:
        ClisonixError: a folder does not exist, the port is taken, or the extra `demo` is missing.
    """
    token = secrets.token_urlsafe(32)
    app = create_app(runs_folder, token, data)
    # The rooms need torch, whose import takes seconds: it begins now, and what is asked meanwhile waits for it.
    threading.Thread(target=_warm, args=(app,), name="clisonix-demo-warm", daemon=True).start()
    with _extra():
        import uvicorn

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            raise ClisonixError(
                f"cannot listen on port {port} ({error}): choose another, or 0 for a free one"
            ) from error
        url = f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={token}"
        print(f"Open {url}\nStop with Ctrl-C.", flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(url)
        # The access log would print the token; headers of a proxy must not be believed.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            ws="none",
            # Live streams never end by themselves.
            timeout_graceful_shutdown=1,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _warm(app: Starlette) -> None:
    # What goes wrong here goes wrong again for whoever asks, and is told there.
    for warm in app.state.warm:
        with suppress(Exception):
            warm()
        # Whoever sees the first room has the processor to themselves until its picture moves.
        time.sleep(PAUSE_S)


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ClisonixError(
            f"the web app needs {error.name}, which is not installed: pip install 'clisonix[demo]'"
        ) from error
