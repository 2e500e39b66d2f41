import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Config keys of the app are environment variables; the agent adds PORT and ADF_RELEASE.
PORT = int(os.environ.get("PORT", "8000"))
GREETING = os.environ.get("GREETING", "Hello World")
RELEASE = os.environ.get("ADF_RELEASE", "no release")


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds that a client may dawdle: an idle one must not hold up the end

    def do_GET(self) -> None:
        body = b"ok\n" if self.path == "/health" else f"{GREETING} from {RELEASE}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests under way


def main() -> None:
    with Server(("", PORT), Handler) as server:
        # shutdown() waits until serve_forever() has returned, so it can't be called in the same thread.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"listening on port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
