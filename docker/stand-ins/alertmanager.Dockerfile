# prom/alertmanager:v0.28.1 for a machine without access to an image registry: the Debian package, run the same way.
FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -yq --no-install-recommends prometheus-alertmanager && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /alertmanager && chown nobody:nogroup /alertmanager
USER nobody
WORKDIR /alertmanager
EXPOSE 9093
ENTRYPOINT ["prometheus-alertmanager"]
