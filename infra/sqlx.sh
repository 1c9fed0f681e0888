#!/bin/sh
# The descriptions of all SQL queries in .sqlx, which let the workspace build without a database.
#
#   sh infra/sqlx.sh prepare   writes them anew after a query or a migration has changed (needs psql)
#   sh infra/sqlx.sh check     fails when the committed ones differ from what the database says
#
# DATABASE_URL names a server; for `check` the database behind it has the current schema.
set -eu
cd "$(dirname "$0")/.."
: "${DATABASE_URL:?names the Postgres server to ask}"
# Tables are described with their schema, also to a user named like it, who has it in the search path.
case $DATABASE_URL in *\?*) DATABASE_URL="$DATABASE_URL&" ;; *) DATABASE_URL="$DATABASE_URL?" ;; esac
export DATABASE_URL="${DATABASE_URL}options=-csearch_path%3Dpublic"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

if [ "${1:-}" = prepare ]; then
    psql -q -v ON_ERROR_STOP=1 "$DATABASE_URL" -c 'drop schema if exists nightshift cascade; create schema nightshift'
    for migration in shared/migrations/*.sql; do
        psql -q -v ON_ERROR_STOP=1 "$DATABASE_URL" -f "$migration"
    done
fi

# Touched, because cargo does not know that the answer of a database is part of the build.
find shared/src functions local-runner/src -name '*.rs' -exec touch {} +
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh" ${CARGO:-cargo} check --quiet --workspace --all-targets

case ${1:-} in
prepare)
    rm -rf .sqlx
    mkdir .sqlx
    cp "$fresh"/*.json .sqlx/
    echo "$(ls .sqlx | wc -l) queries described in .sqlx"
    ;;
check)
    if ! diff -r "$fresh" .sqlx; then
        echo "error: .sqlx is not fresh; write it anew with: make sqlx" >&2
        exit 1
    fi
    echo ".sqlx is fresh: $(ls .sqlx | wc -l) queries"
    ;;
*)
    echo "usage: $0 prepare|check" >&2
    exit 2
    ;;
esac
