# prom/prometheus:v3.5.0 for a machine without access to an image registry: the Debian package, run the same way.
FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -yq --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /prometheus && chown nobody:nogroup /prometheus
USER nobody
WORKDIR /prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus"]
