#!/bin/sh
# Copies everything that is kept into a new folder while it is served: sh docker/backup.sh FOLDER
# Redis comes first: a picture that is copied without its crop is no harm, a crop without its picture is.
set -eu
folder=$1
here=$(dirname "$0")
redis() { sh "$here/redis_cli.sh" "$@" | tr -d '\r'; }
value() { redis INFO persistence | sed -n "s/^$1://p"; }
umask 077
mkdir -p "$(dirname "$folder")"
mkdir "$folder.part"
# While the append-only file is rewritten its parts change their names.
rewrite_at=$(redis CONFIG GET auto-aof-rewrite-percentage | tail -1)
trap 'redis CONFIG SET auto-aof-rewrite-percentage "$rewrite_at" >/dev/null' EXIT
redis CONFIG SET auto-aof-rewrite-percentage 0 >/dev/null
while [ "$(value aof_rewrite_in_progress)$(value aof_rewrite_scheduled)" != 00 ]; do sleep 1; done
# The file grows meanwhile (1); what was written when the copy began is whole.
docker compose exec -T redis tar -C /data --warning=no-file-changed -cf - . > "$folder.part/redis.tar" \
  || [ $? = 1 ]
# What Redis has acknowledged is noted while it is copied, beyond what the copy of Redis has.
docker compose exec -T service tar -C /data --warning=no-file-changed --exclude=./redis.acknowledged \
  -cf - . > "$folder.part/data.tar" \
  || [ $? = 1 ]
(cd "$folder.part" && sha256sum redis.tar data.tar > SHA256SUMS)
mv "$folder.part" "$folder"
