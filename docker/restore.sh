#!/bin/sh
# Restores a backup of backup.sh into empty volumes: sh docker/restore.sh FOLDER
set -eu
folder=$1
(cd "$folder" && sha256sum --check --quiet SHA256SUMS)
docker compose up --no-start
put() { # SERVICE PLACE FILE
  docker compose run --rm --no-deps -T --entrypoint sh "$1" -c \
    'test -z "$(ls -A "$1")" || { echo "$1 is not empty: docker compose down --volumes" >&2; exit 1; }
     tar -C "$1" -xf -' sh "$2" < "$folder/$3"
}
put redis /data redis.tar
put service /data data.tar
