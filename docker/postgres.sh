#!/bin/sh
# Starts one of the two servers of PostgreSQL of the profile postgres. One without data copies the
# other one if that takes writes, and becomes its standby.
# Usage: postgres.sh first|second OTHER
set -eu
role=$1
other=$2
new=$PGDATA.new
secret() { cat "/run/secrets/$1"; }

other_takes_writes() {
  PGPASSWORD=$(secret database_password) psql --quiet --command "" \
    "host=$other user=gmn dbname=gmn target_session_attrs=read-write connect_timeout=3" 2>/dev/null
}

copy_other() {
  PGPASSWORD=$(secret replication_password) pg_basebackup --pgdata="$new" --checkpoint=fast \
    --dbname="host=$other user=replicator connect_timeout=5" --write-recovery-conf
}

create() {
  initdb --pgdata="$new" --encoding=UTF8 --locale=C.UTF-8 --data-checksums \
    --auth-local=peer --auth-host=scram-sha-256
  printf 'host all gmn all scram-sha-256\nhost replication replicator all scram-sha-256\n' \
    >> "$new/pg_hba.conf"
  pg_ctl --pgdata="$new" --wait --options="-c listen_addresses= -c unix_socket_directories=$PGHOST" start
  psql --quiet --set=ON_ERROR_STOP=1 --dbname=postgres <<END_SQL
CREATE ROLE gmn LOGIN PASSWORD '$(secret database_password)';
CREATE ROLE replicator LOGIN REPLICATION PASSWORD '$(secret replication_password)';
CREATE DATABASE gmn OWNER gmn;
ALTER SYSTEM SET synchronous_standby_names = '*';
END_SQL
  pg_ctl --pgdata="$new" --wait stop
}

if [ -d "$PGDATA" ]; then
  # A former primary must take no writes once its standby was promoted.
  if [ ! -e "$PGDATA/standby.signal" ] && other_takes_writes; then
    echo "$other takes writes, so this server is out of date: make it a standby anew" \
      "(docs/postgres.md#with-docker-compose)" >&2
    exit 1
  fi
else
  rm -rf "$new"
  if [ "$role" = second ]; then
    until other_takes_writes; do sleep 1; done
    copy_other
  elif other_takes_writes; then
    copy_other
  else
    create
  fi
  mv "$new" "$PGDATA"
fi
# Enough for both machines: a process has up to 40 connections. A standby that lacks more than
# wal_keep_size is made anew.
exec postgres -c listen_addresses="*" -c unix_socket_directories="$PGHOST" -c max_connections=300 \
  -c wal_keep_size=4GB
