# quay.io/coreos/etcd:v3.5.18 for a machine without access to an image registry: the Debian package (3.4), run the same way.
FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -yq --no-install-recommends etcd-server etcd-client && rm -rf /var/lib/apt/lists/*
CMD ["etcd"]
