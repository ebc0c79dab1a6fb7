#!/bin/sh
# Starts Redis on its record: sh start_redis.sh CONFIGURATION DIRECTORY [OPTION...]
# What a crash left by halves at the end of the append-only file was not acknowledged, and is cut off
# first. Redis' own aof-load-truncated cuts amid a transaction: its beginning stays in the file, and the
# next start but one takes it up with what was written behind it, or drops that.
set -eu
configuration=$1 directory=$2
shift 2
files=$directory/appendonlydir
manifest=$files/appendonly.aof.manifest

refuse() {
  echo "$manifest: $1; nothing was changed. Put a whole copy back (docker/restore.sh), or keep only what \
stands before the damage: redis-check-aof --fix $manifest" >&2
  exit 1
}

if [ -f "$manifest" ]; then
  # Amid the very first start the power may go between the names of two files.
  first=$(sed -n 's/^file \(.*\) seq 1 type b$/\1/p' "$manifest")
  if [ -n "$first" ] && [ ! -e "$files/$first" ] && [ -z "$(find "$files" -name '*.incr.aof' -size +0)" ]; then
    rm "$manifest"
    echo "$manifest: removed, as nothing was ever written"
  fi
fi
if [ -f "$manifest" ] && ! said=$(redis-check-aof "$manifest" 2>&1); then
  analysed=$(printf '%s\n' "$said" | sed -n 's/^AOF analyzed: filename=\(.*\), size=.*, ok_up_to=\([0-9]*\),.*/\1 \2/p' | tail -n 1)
  name=${analysed% *} good=${analysed##* }
  newest=$(sed -n 's/^file \(.*\) seq [0-9]* type i$/\1/p' "$manifest" | tail -n 1)
  if [ -z "$analysed" ]; then
    refuse "a file that it names is damaged ($(printf '%s\n' "$said" | tail -n 20 | tr '\n' ';'))"
  elif [ "$name" != "$newest" ]; then
    refuse "$name is damaged behind its byte $good"
  fi
  # A torn end is one transaction, of which pieces are missing: where its own end has arrived, that is the
  # file's. Behind other damage stands more. (Damage of the last transaction alone looks the same; the
  # service, which notes what was acknowledged, refuses a record that is behind.)
  exec=$(printf 'EXEC\r')
  ends=$(tail -c "+$((good + 1))" "$files/$name" | grep -acx "$exec" || true)
  last=$(tail -c 6 "$files/$name" | grep -acx "$exec" || true)
  if [ "$ends" -gt "$last" ]; then
    refuse "$name is damaged behind its byte $good, before what was acknowledged"
  fi
  whole=$(wc -c < "$files/$name")
  yes | redis-check-aof --fix "$manifest" > /dev/null
  echo "$files/$name: cut off $((whole - good)) bytes behind byte $good, of a write that was not acknowledged"
fi
# Redis makes this folder and syncs what is in it, but not the folder above, which names it: a power cut
# might take the first files with their folder.
mkdir -p "$files"
sync "$directory"
exec redis-server "$configuration" --dir "$directory" "$@"
