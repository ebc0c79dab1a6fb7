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

if [ -f "$manifest" ] && ! said=$(redis-check-aof "$manifest" 2>&1); then
  analysed=$(printf '%s\n' "$said" | sed -n 's/^AOF analyzed: filename=\(.*\), size=.*, ok_up_to=\([0-9]*\),.*/\1 \2/p' | tail -n 1)
  name=${analysed% *} good=${analysed##* }
  newest=$(sed -n 's/^file \(.*\) seq [0-9]* type i$/\1/p' "$manifest" | tail -n 1)
  if [ -z "$analysed" ]; then
    refuse "a file that it names is damaged: $(printf '%s\n' "$said" | sed -n 's/.*Checking RDB file //p')"
  elif [ "$name" != "$newest" ]; then
    refuse "$name is damaged behind its byte $good"
  fi
  # Behind a torn end nothing is whole; behind other damage stands what was acknowledged.
  if tail -c "+$((good + 1))" "$files/$name" | grep -aqx "$(printf 'EXEC\r')"; then
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
