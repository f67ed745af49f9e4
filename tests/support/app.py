"""The page, served in a thread of this process."""

import contextlib
import io
import socket
import threading

from PIL import Image


@contextlib.contextmanager
def served(model, load=None, *, max_upload=100_000, port=0, **options):
    """Serve the page with one model, "narrow", on a loopback port; its address."""
    import uvicorn

    from vesselseg.app.server import OfferedModels, make_app

    app = make_app(OfferedModels(model, "narrow", load), max_upload=max_upload, **options)
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
        log_level="critical", access_log=False,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", port)) as listening:
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


def encoded(pixels):
    """Pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
