#!/bin/sh
# Gives the read-only role its password when the database is first made.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$READER_PASSWORD" \
    --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
alter role animora_reader password :'password';
SQL
