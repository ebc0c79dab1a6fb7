#!/bin/sh
# Backs up Redis and the volume `data` while both are in use: sh docker/backup.sh FOLDER
# Redis first: a copied image without its crop is harmless, a crop without its image is not.
set -eu
folder=$1
here=$(dirname "$0")
redis() { sh "$here/redis_cli.sh" "$@" | tr -d '\r'; }
value() { redis INFO persistence | sed -n "s/^$1://p"; }
umask 077
mkdir -p "$(dirname "$folder")"
mkdir "$folder.part"
# A rewrite of the append-only file renames its parts.
rewrite_at=$(redis CONFIG GET auto-aof-rewrite-percentage | tail -1)
trap 'redis CONFIG SET auto-aof-rewrite-percentage "$rewrite_at" >/dev/null' EXIT
redis CONFIG SET auto-aof-rewrite-percentage 0 >/dev/null
while [ "$(value aof_rewrite_in_progress)$(value aof_rewrite_scheduled)" != 00 ]; do sleep 1; done
# tar exits with 1 because the file grows; everything written before the copy began is complete.
docker compose exec -T redis tar -C /data --warning=no-file-changed -cf - . > "$folder.part/redis.tar" \
  || [ $? = 1 ]
# redis.acknowledged is excluded: it may already be ahead of the copy of Redis. Indexes are filled
# from the record.
docker compose exec -T service tar -C /data --warning=no-file-changed --exclude=./redis.acknowledged \
  --exclude=./indexes \
  -cf - . > "$folder.part/data.tar" \
  || [ $? = 1 ]
(cd "$folder.part" && sha256sum redis.tar data.tar > SHA256SUMS)
mv "$folder.part" "$folder"
