# haproxy:2.6-bookworm for a machine without access to an image registry: the Debian package, run the same way.
FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -yq --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/* \
 && groupmod --gid 99 haproxy && usermod --uid 99 --gid 99 haproxy && mkdir -p /usr/local/etc/haproxy
STOPSIGNAL SIGUSR1
USER haproxy
WORKDIR /var/lib/haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
