# minio/minio for a machine without access to an image registry: moto's S3 server, which keeps everything in memory
# and takes any password, with MinIO's address of health.
FROM python:3.11-slim-bookworm
RUN apt-get update -q && apt-get install -yq --no-install-recommends curl && rm -rf /var/lib/apt/lists/* \
 && pip install -q --no-cache-dir "moto[s3,server]==5.2.5"
RUN printf '%s\n' '#!/usr/local/bin/python3' \
    'from moto.server import DomainDispatcherApplication, create_backend_app' \
    'from werkzeug.serving import run_simple' \
    's3 = DomainDispatcherApplication(create_backend_app)' \
    'def serve(request, start):' \
    '    if request["PATH_INFO"].startswith("/minio/health/"):' \
    '        start("200 OK", [("Content-Length", "0")])' \
    '        return [b""]' \
    '    return s3(request, start)' \
    'run_simple("0.0.0.0", 9000, serve, threaded=True)' > /usr/local/bin/minio && chmod +x /usr/local/bin/minio
ENTRYPOINT ["minio"]
