# postgres:18-bookworm for a machine without access to an image registry: the Debian package (15), with the programs in
# PATH and the owner of the volume's folder as there.
FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -yq --no-install-recommends postgresql-common \
 && sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
 && apt-get install -yq --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
 && chown postgres:postgres /var/lib/postgresql && chmod 1777 /var/lib/postgresql /var/run/postgresql
ENV PATH=$PATH:/usr/lib/postgresql/15/bin
STOPSIGNAL SIGINT
CMD ["postgres"]
