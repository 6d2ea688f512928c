/* libpq itself: pipeline mode, rows one by one, large objects by fast-path calls, cancellation, two ways to COPY.
 * Prints what it saw, the same on every run. */

#include <libpq-fe.h>
#include <libpq/libpq-fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

static void fail(PGconn *db, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, PQerrorMessage(db));
    exit(1);
}

static void show(PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    printf("%s %s %s", PQresStatus(status), state ? state : "-", PQcmdStatus(result));
    for (int row = 0; row < PQntuples(result) && row < 3; row++)
        for (int column = 0; column < PQnfields(result); column++)
            printf(" %s=%s", PQfname(result, column), PQgetisnull(result, row, column) ? "NULL" : PQgetvalue(result, row, column));
    printf("\n");
    PQclear(result);
}

static void run(PGconn *db, const char *statement)
{
    show(PQexec(db, statement));
}

/* Reads everything up to and with the next `syncs` ends of a pipeline. */
static void drain(PGconn *db, int syncs)
{
    while (syncs > 0)
    {
        PGresult *result = PQgetResult(db);
        if (result == NULL)
            continue;
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
            syncs--;
        show(result);
    }
}

static void pipeline(PGconn *db)
{
    const char *values[1];
    if (!PQenterPipelineMode(db))
        fail(db, "pipeline");
    for (int n = 0; n < 3; n++)
    {
        char text[16];
        snprintf(text, sizeof text, "%d", n);
        values[0] = text;
        PQsendQueryParams(db, "SELECT $1::int AS n", 1, NULL, values, NULL, NULL, n % 2);
    }
    PQpipelineSync(db);
    PQsendPrepare(db, "named", "INSERT INTO driver_rows VALUES ($1) RETURNING id", 0, NULL);
    PQsendDescribePrepared(db, "named");
    values[0] = "1";
    PQsendQueryPrepared(db, "named", 1, values, NULL, NULL, 0);
    PQsendQueryPrepared(db, "named", 1, values, NULL, NULL, 0);
    PQsendQueryParams(db, "SELECT 'aborted'", 0, NULL, NULL, NULL, NULL, 0);
    PQpipelineSync(db);
    PQsendQueryParams(db, "SELECT count(*) FROM driver_rows", 0, NULL, NULL, NULL, NULL, 0);
    PQpipelineSync(db);
    drain(db, 3);
    /* Answers before the end of the segment: Flush. */
    PQsendQueryParams(db, "SELECT 'flushed'", 0, NULL, NULL, NULL, NULL, 0);
    PQsendFlushRequest(db);
    PQflush(db);
    show(PQgetResult(db));
    while (PQgetResult(db) != NULL)
        ;
    PQsendQueryParams(db, "SELECT 'and on'", 0, NULL, NULL, NULL, NULL, 0);
    PQpipelineSync(db);
    drain(db, 1);
    if (!PQexitPipelineMode(db))
        fail(db, "exit pipeline");
}

static void rows_one_by_one(PGconn *db)
{
    int rows = 0;
    PQsendQuery(db, "SELECT g FROM generate_series(1, 5000) g; SELECT 1/0");
    PQsetSingleRowMode(db);
    for (PGresult *result; (result = PQgetResult(db)) != NULL;)
    {
        if (PQresultStatus(result) == PGRES_SINGLE_TUPLE)
        {
            rows++;
            PQclear(result);
        }
        else
            show(result);
    }
    printf("%d rows\n", rows);
}

static void large_objects(PGconn *db)
{
    char buffer[5000], back[5000];
    memset(buffer, 'x', sizeof buffer);
    run(db, "BEGIN");
    Oid object = lo_creat(db, INV_READ | INV_WRITE);
    if (object == InvalidOid)
        fail(db, "lo_creat");
    int fd = lo_open(db, object, INV_READ | INV_WRITE);
    printf("lo %d", lo_write(db, fd, buffer, sizeof buffer));
    printf(" %d", lo_lseek(db, fd, 100, SEEK_SET));
    printf(" %d", lo_read(db, fd, back, sizeof back));
    printf(" %d %d\n", memcmp(buffer, back, 4900), lo_close(db, fd));
    run(db, "COMMIT");
    printf("unlink %d", lo_unlink(db, object));
    printf(" again %d\n", lo_unlink(db, object));
}

static void copy(PGconn *db)
{
    char *piece;
    int length, total = 0;
    show(PQexec(db, "COPY driver_rows FROM STDIN"));
    for (int n = 10; n < 2000; n++)
    {
        char line[16];
        PQputCopyData(db, line, snprintf(line, sizeof line, "%d\n", n));
    }
    PQputCopyEnd(db, NULL);
    show(PQgetResult(db));
    while (PQgetResult(db) != NULL)
        ;
    show(PQexec(db, "COPY driver_rows FROM STDIN"));
    PQputCopyData(db, "5\n", 2);
    PQputCopyEnd(db, "changed my mind");
    show(PQgetResult(db));
    while (PQgetResult(db) != NULL)
        ;
    show(PQexec(db, "COPY driver_rows TO STDOUT"));
    while ((length = PQgetCopyData(db, &piece, 0)) > 0)
    {
        total += length;
        PQfreemem(piece);
    }
    show(PQgetResult(db));
    while (PQgetResult(db) != NULL)
        ;
    printf("%d bytes\n", total);
}

static void cancel(PGconn *db)
{
    char error[256];
    PQsendQuery(db, "SELECT pg_sleep(30)");
    PQflush(db);
    /* Until the statement runs there is nothing to cancel. */
    struct timeval wait = {0, 300000};
    select(0, NULL, NULL, NULL, &wait);
    PGcancel *request = PQgetCancel(db);
    printf("cancel %d\n", PQcancel(request, error, sizeof error));
    PQfreeCancel(request);
    show(PQgetResult(db));
    while (PQgetResult(db) != NULL)
        ;
}

int main(void)
{
    PGconn *db = PQconnectdb("application_name=driver options='-c geqo=off'");
    if (PQstatus(db) != CONNECTION_OK)
        fail(db, "connect");
    printf("%s %d %d\n", PQparameterStatus(db, "application_name"), PQprotocolVersion(db), PQserverVersion(db) > 0);
    run(db, "SHOW geqo");
    run(db, "CREATE TABLE driver_rows (id int PRIMARY KEY)");
    pipeline(db);
    rows_one_by_one(db);
    large_objects(db);
    copy(db);
    cancel(db);
    run(db, "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM driver_rows ORDER BY id");
    show(PQdescribePortal(db, "c"));
    run(db, "FETCH 2 FROM c");
    PQreset(db);
    run(db, "SELECT count(*) FROM driver_rows");
    PQfinish(db);
    db = PQconnectdb("dbname=no_such_database");
    printf("%d %d\n", PQstatus(db) == CONNECTION_BAD, strstr(PQerrorMessage(db), "no_such_database") != NULL);
    PQfinish(db);
    printf("ping %d\n", PQping(""));
    return 0;
}
