"""Prints the alerts of watch lists: WEBHOOK_SECRET=whsec_… python receive_alerts.py [PORT].

The secret is shown when the webhook is made. `pip install standardwebhooks` checks signatures.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

LARGEST_MESSAGE = 1024 * 1024
WEBHOOK = Webhook(os.environ["WEBHOOK_SECRET"])
# A message comes at least once, always under one id. Keep these where they outlive the program.
seen = set()


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST_MESSAGE:
            self.send_error(413)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            message = WEBHOOK.verify(self.rfile.read(length), headers)
        except WebhookVerificationError:
            self.send_error(401)
            return
        if headers["webhook-id"] not in seen:
            seen.add(headers["webhook-id"])
            show(message)
        # Answer within ten seconds; any other status than 2xx and the message comes again.
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Write no line for each request."""


def show(message):
    alert = message["data"]
    if message["type"] == "watch.visit":
        certainty = f"{alert['probability']:.0%}"
        print(alert["gallery"], alert["identity"], alert["camera"], certainty, flush=True)
    else:
        print(message["type"], alert.get("detail", ""), flush=True)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
