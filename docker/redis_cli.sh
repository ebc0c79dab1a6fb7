#!/bin/sh
# redis-cli as the administrator of the deployment's Redis, such as: sh docker/redis_cli.sh INFO memory
exec docker compose exec -T redis sh -c \
  'REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password) exec redis-cli "$@"' redis-cli "$@"
