#!/bin/sh
# Starts Redis on its record: sh start_redis.sh CONFIGURATION DIRECTORY [OPTION...]
# First removes an incomplete transaction at the end of the append-only file, which was not acknowledged.
# aof-load-truncated of Redis would keep the beginning of that transaction: a later start joins it with
# the writes after it, or drops these.
set -eu
configuration=$1 directory=$2
shift 2
files=$directory/appendonlydir
manifest=$files/appendonly.aof.manifest

refuse() {
  echo "$manifest: $1; nothing was changed. Restore a backup (gmn restore), or keep only what \
stands before the damage: redis-check-aof --fix $manifest" >&2
  exit 1
}

# The manifest's files of one type: b(ase), i(ncrement), h(istory); sequence numbers as a pattern.
named() { sed -n "s/^file \(.*\) seq $2 type $1\$/\1/p" "$manifest"; }

if [ -f "$manifest" ]; then
  # A power cut during the first start may come between the names of two files.
  first=$(named b 1)
  if [ -n "$first" ] && [ ! -e "$files/$first" ] && [ -z "$(find "$files" -name '*.incr.aof' -size +0)" ]; then
    rm "$manifest"
    echo "$manifest: removed, as nothing was ever written"
  fi
fi
if [ -f "$manifest" ]; then
  # Redis renames a rewritten base and the manifest that names it without a sync between them. Until the
  # name of the base is on the disk, the files that it was made from are still there, as history.
  base=$(named b '[0-9]*')
  history=$(named h '[0-9]*')
  if [ -n "$base" ] && [ ! -e "$files/$base" ] && [ "$(echo "$history" | grep -c '\.base\.')" = 1 ]; then
    for one in $history; do [ -e "$files/$one" ] || refuse "$base and $one are gone"; done
    sed -e '/ type b$/d' -e '/\.base\..* type h$/s/h$/b/' -e '/\.incr\..* type h$/s/h$/i/' \
      "$manifest" > "$manifest.before"
    mv "$manifest.before" "$manifest"
    echo "$manifest: put back to what $base was made of, as its name had not arrived"
  fi
  newest=$(named i '[0-9]*' | tail -n 1)
  # Redis syncs the name of this file before it writes to it. (If the file was removed, the service
  # refuses the rest, because it notes the last acknowledged change.)
  if [ -n "$newest" ] && [ ! -e "$files/$newest" ]; then
    : > "$files/$newest"
    echo "$files/$newest: made, as its name had not arrived and nothing was written to it"
  fi
fi
if [ -f "$manifest" ] && ! said=$(redis-check-aof "$manifest" 2>&1); then
  analysed=$(printf '%s\n' "$said" | sed -n 's/^AOF analyzed: filename=\(.*\), size=.*, ok_up_to=\([0-9]*\),.*/\1 \2/p' | tail -n 1)
  name=${analysed% *} good=${analysed##* }
  if [ -z "$analysed" ]; then
    refuse "a file that it names is damaged ($(printf '%s\n' "$said" | tail -n 20 | tr '\n' ';'))"
  elif [ "$name" != "$newest" ]; then
    refuse "$name is damaged behind its byte $good"
  fi
  # An incomplete end is one transaction with missing parts; its own EXEC, if present, is the end of the
  # file. Other damage is followed by more transactions. (Damage of the last transaction alone looks the
  # same; the service then refuses the record, because it notes the last acknowledged change.)
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
# Redis creates this folder and syncs its content, but not the parent folder: a power cut could remove
# the first files with their folder.
mkdir -p "$files"
sync "$directory"
exec redis-server "$configuration" --dir "$directory" "$@"
