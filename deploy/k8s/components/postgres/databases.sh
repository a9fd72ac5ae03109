#!/bin/sh
# The databases of the platform: one a service and one for the bus, each with an owner of its name
# that no other can open. Run once, by the image of postgres, on a new data directory.
set -eu

for name in auth billing inference gpu_scheduler bus; do
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username postgres \
    --set name="$name" --set password="$(cat "${PASSWORDS:-/etc/vlinders/passwords}/$name")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
