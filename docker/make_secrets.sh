#!/bin/sh
# Creates the missing files of docker/secrets. Only the owner can open the folder; the users of the
# containers can read the files. Prints the first key once.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets
keep() { chmod 0444 "$1.new"; mv "$1.new" "$1"; }
for name in redis_password minio_password grafana_password database_password replication_password; do
  [ -e "$name" ] || { openssl rand -hex 32 > "$name.new"; keep "$name"; }
done
key_line() { # ID SECRET SCOPE
  printf '{"key_id": "%s", "secret_sha256": "%s", "scopes": ["%s"], "note": "of the deployment"}\n' \
    "$1" "$(printf %s "$2" | openssl dgst -sha256 -r | cut -d' ' -f1)" "$3"
}
[ -e api_keys ] || {
  operator=$(openssl rand -hex 32)
  metrics=$(openssl rand -hex 32)
  { key_line operator "$operator" admin
    key_line metrics "$metrics" metrics; } > api_keys.new
  printf 'gmn_metrics_%s' "$metrics" > metrics_key.new
  keep metrics_key
  keep api_keys
  chmod 0644 api_keys
  echo "Admin key, shown this once: gmn_operator_$operator"
}
[ -e camera_key ] || {
  camera=$(openssl rand -hex 32)
  # The new key takes the place of a former one. The file stays the same one: containers have it open.
  { grep -v '"key_id": "camera"' api_keys
    key_line camera "$camera" sight; } > api_keys.new
  cat api_keys.new > api_keys
  rm api_keys.new
  printf 'gmn_camera_%s' "$camera" > camera_key.new
  keep camera_key
}
[ -e cameras ] || {
  cat > cameras.new <<END
# The cameras that the profile camera watches (docs/cameras.md#several-cameras):
# [camera.gate]
# source = "rtsp://gate.example/stream"
END
  keep cameras
  chmod 0644 cameras
}
[ -e tls ] || {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout tls.key.new -out tls.crt.new 2>/dev/null
  cp tls.crt.new tls.crt
  chmod 0444 tls.crt
  cat tls.crt.new tls.key.new > tls.new
  rm -f tls.crt.new tls.key.new
  keep tls
  echo "A self-signed certificate for localhost is in docker/secrets/tls; put yours there, with its key."
}
