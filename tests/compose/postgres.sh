#!/bin/sh
# Stands in for the entrypoint of the image `postgres`, where no registry can be asked: the same variables, the same
# directories, the machine's own PostgreSQL. It knows what the quick start uses, and nothing more.
set -eu
[ "${1:-postgres}" = postgres ] || exec "$@"
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid=999 --regid=999 --clear-groups env HOME=/tmp "$@"; }
mkdir -p "$data" /run/postgresql
chown 999:999 "$data" /run/postgresql
cat "$POSTGRES_PASSWORD_FILE" > /run/postgresql/password
chown 999:999 /run/postgresql/password
as_postgres initdb --pgdata="$data" --username=postgres --pwfile=/run/postgresql/password --auth-local=trust \
    --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 > /dev/null
echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
# First on a socket alone, as the image does it: whoever connects finds everything.
as_postgres pg_ctl --pgdata="$data" --options="-c listen_addresses= -k /run/postgresql" --wait --silent --log=/tmp/init.log start
for script in /docker-entrypoint-initdb.d/*.sql; do
    psql --host=/run/postgresql --username=postgres --no-psqlrc --set=ON_ERROR_STOP=1 --quiet --file="$script"
done
as_postgres pg_ctl --pgdata="$data" --mode=fast --wait --silent stop
exec setpriv --reuid=999 --regid=999 --clear-groups env HOME=/tmp \
    postgres -D "$data" -c "listen_addresses=*" -c unix_socket_directories=/run/postgresql -c log_statement=all
