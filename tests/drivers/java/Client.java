// pgjdbc as it comes: what a job does with it. Prints what it saw, the same on every run.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class Client {
    static void say(Object... what) {
        System.out.println(String.join(" ", Arrays.stream(what).map(String::valueOf).toList()));
    }

    interface Work {
        void run() throws Exception;
    }

    static void failing(Work work) throws Exception {
        try {
            work.run();
            say("did not fail");
        } catch (SQLException error) {
            say(error.getSQLState(), error.getMessage().split("\n")[0]);
        }
    }

    static Connection connect(String... properties) throws SQLException {
        String database = System.getenv("PGDATABASE");
        Properties all = new Properties();
        all.put("user", System.getenv("PGUSER"));
        for (int n = 0; n + 1 < properties.length; n += 2) {
            if (properties[n].equals("database")) {
                database = properties[n + 1];
            } else {
                all.put(properties[n], properties[n + 1]);
            }
        }
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + database, all);
    }

    static String row(ResultSet rows) throws SQLException {
        StringBuilder text = new StringBuilder();
        for (int n = 1; n <= rows.getMetaData().getColumnCount(); n++) {
            Object value = rows.getObject(n);
            text.append(value instanceof byte[] bytes ? Arrays.toString(bytes) : value).append('|');
        }
        return text.toString();
    }

    static void values(Connection db) throws Exception {
        db.createStatement().execute("CREATE TABLE driver_values (i int, b bigint, n numeric, t text, j jsonb, a int[], "
            + "u uuid, ts timestamptz, d date, by bytea, f float8, o bool)");
        // More than five runs: the driver prepares by name and asks for binary results from then on.
        for (int run = 0; run < 8; run++) {
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO driver_values VALUES (?,?,?,?,?::jsonb,?,?,?,?,?,?,?)")) {
                insert.setInt(1, run);
                insert.setLong(2, 1L << 40);
                insert.setBigDecimal(3, new BigDecimal("0.0000000001"));
                insert.setString(4, "ä€𝄞'\"\\");
                insert.setString(5, "{\"a\": [1, null]}");
                insert.setArray(6, db.createArrayOf("int4", new Integer[] {1, null, 3}));
                insert.setObject(7, new UUID(0, 5));
                insert.setObject(8, OffsetDateTime.parse("2026-02-03T04:05:06.000007Z"));
                insert.setObject(9, LocalDate.of(2026, 2, 3));
                insert.setBytes(10, new byte[] {0, 1, -1});
                insert.setDouble(11, 1.5);
                insert.setNull(12, Types.BOOLEAN);
                say(insert.executeUpdate());
            }
        }
        try (PreparedStatement select = db.prepareStatement("SELECT * FROM driver_values WHERE i = ?")) {
            for (int run = 0; run < 8; run++) {
                select.setInt(1, run);
                ResultSet rows = select.executeQuery();
                rows.next();
                say(row(rows));
            }
        }
        ResultSet columns = db.getMetaData().getColumns(null, "public", "driver_values", null);
        while (columns.next()) say(columns.getString("COLUMN_NAME"), columns.getString("TYPE_NAME"));
        say(db.getMetaData().getTables(null, "public", "%", new String[] {"TABLE"}).next());
    }

    static void transactions(Connection db) throws Exception {
        Statement run = db.createStatement();
        run.execute("CREATE TABLE driver_rows (id int PRIMARY KEY, note text)");
        db.setAutoCommit(false);
        run.execute("INSERT INTO driver_rows VALUES (1, 'kept')");
        Savepoint savepoint = db.setSavepoint("s");
        failing(() -> run.execute("INSERT INTO driver_rows VALUES (1, 'twice')"));
        failing(() -> run.execute("SELECT 1"));
        db.rollback(savepoint);
        db.commit();
        PreparedStatement batch = db.prepareStatement("INSERT INTO driver_rows VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS);
        for (int n = 10; n < 2010; n++) {
            batch.setInt(1, n);
            batch.setString(2, "n" + n);
            batch.addBatch();
        }
        say(Arrays.stream(batch.executeBatch()).sum());
        db.commit();
        PreparedStatement bad = db.prepareStatement("INSERT INTO driver_rows VALUES (?, 'lost')");
        for (int n : new int[] {5000, 10, 5001}) {
            bad.setInt(1, n);
            bad.addBatch();
        }
        try {
            bad.executeBatch();
        } catch (BatchUpdateException error) {
            say(error.getSQLState(), Arrays.toString(error.getUpdateCounts()));
        }
        db.rollback();
        db.setAutoCommit(true);
        run.execute("SELECT 1 AS a; UPDATE driver_rows SET note = 'x' WHERE id < 12; SELECT 2");
        do {
            ResultSet rows = run.getResultSet();
            if (rows == null) {
                say("updated", run.getUpdateCount());
            } else {
                rows.next();
                say(row(rows));
            }
        } while (run.getMoreResults() || run.getUpdateCount() != -1);
        failing(() -> db.createStatement().executeQuery("SELEC 1"));
        failing(() -> db.prepareStatement("SELECT nothing FROM nowhere WHERE a = ?").getParameterMetaData());
        ResultSet count = run.executeQuery("SELECT count(*), min(id), max(id) FROM driver_rows");
        count.next();
        say(row(count));
        db.setReadOnly(true);
        failing(() -> run.execute("DELETE FROM driver_rows WHERE id = 1"));
        db.setReadOnly(false);
        db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        say(db.getTransactionIsolation());
    }

    static void results(Connection db) throws Exception {
        db.setAutoCommit(false);
        Statement portal = db.createStatement();
        portal.setFetchSize(333);
        ResultSet rows = portal.executeQuery("SELECT g, repeat('z', 100) FROM generate_series(1, 20000) g");
        long total = 0;
        while (rows.next()) total += rows.getInt(1);
        say(total);
        db.commit();
        db.setAutoCommit(true);
        ResultSet big = db.createStatement().executeQuery("SELECT repeat('q', 20000000)");
        big.next();
        say(big.getString(1).length());
        PreparedStatement length = db.prepareStatement("SELECT length(?)");
        length.setString(1, "w".repeat(500_000));
        ResultSet one = length.executeQuery();
        one.next();
        say(one.getInt(1));
        ResultSet scroll = db.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)
            .executeQuery("SELECT id, note FROM driver_rows WHERE id IN (10, 11)");
        scroll.last();
        scroll.updateString("note", "changed");
        scroll.updateRow();
        scroll.first();
        say(row(scroll));
        CallableStatement call = db.prepareCall("{ ? = call upper(?) }");
        call.registerOutParameter(1, Types.VARCHAR);
        call.setString(2, "called");
        call.execute();
        say(call.getString(1));
    }

    static void copies(Connection db) throws Exception {
        db.createStatement().execute("CREATE TABLE driver_copy (id int, t text)");
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 20_000; n++) lines.append(n).append("\tline ").append(n).append('\n');
        CopyManager copy = ((PGConnection) db).getCopyAPI();
        say(copy.copyIn("COPY driver_copy FROM STDIN", new StringReader(lines.toString())));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        say(copy.copyOut("COPY driver_copy TO STDOUT (FORMAT binary)", out), out.size());
        say(copy.copyIn("COPY driver_copy FROM STDIN (FORMAT binary)", new ByteArrayInputStream(out.toByteArray())));
        failing(() -> copy.copyIn("COPY driver_copy FROM STDIN", new StringReader("x\ty\tz\n")));
    }

    static void listening(Connection db, Connection other) throws Exception {
        db.createStatement().execute("LISTEN driver_news");
        int pid = ((PGConnection) other).getBackendPID();
        other.createStatement().execute("NOTIFY driver_news, 'one'");
        other.createStatement().execute("SELECT pg_notify('driver_news', 'two')");
        int heard = 0;
        while (heard < 2) {
            PGNotification[] news = ((PGConnection) db).getNotifications(10_000);
            if (news == null || news.length == 0) throw new IllegalStateException("nothing heard");
            for (PGNotification one : news) say(one.getName(), one.getParameter(), one.getPID() == pid);
            heard += news.length;
        }
        Statement noisy = db.createStatement();
        noisy.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$");
        for (SQLWarning warning = noisy.getWarnings(); warning != null; warning = warning.getNextWarning()) {
            say(warning.getSQLState(), warning.getMessage());
        }
        Statement slow = db.createStatement();
        Thread cancel = new Thread(() -> {
            try {
                Thread.sleep(300);
                slow.cancel();
            } catch (Exception error) {
                say(error);
            }
        });
        cancel.start();
        failing(() -> slow.execute("SELECT pg_sleep(30)"));
        cancel.join();
        slow.setQueryTimeout(1);
        failing(() -> slow.execute("SELECT pg_sleep(30)"));
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection db = connect("ApplicationName", "driver"); Connection other = connect("preferQueryMode", "simple")) {
            say(db.getMetaData().getDatabaseProductName(), db.getClientInfo("ApplicationName"));
            values(db);
            transactions(db);
            results(db);
            copies(db);
            listening(db, other);
            ResultSet simple = other.createStatement().executeQuery("SELECT id FROM driver_rows ORDER BY id LIMIT 2");
            while (simple.next()) say(simple.getInt(1));
            other.createStatement().execute("SELECT pg_terminate_backend(" + ((PGConnection) db).getBackendPID() + ")");
            failing(() -> db.createStatement().execute("SELECT 1"));
        }
        failing(() -> connect("database", "no_such_database"));
    }
}
