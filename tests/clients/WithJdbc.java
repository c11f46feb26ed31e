// Sells with JDBC and PostgreSQL's driver, from threads; ids of type uuid. `java WithJdbc.java` compiles and runs it.
// See till.py for the task of each client and for the line that it prints.

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.postgresql.util.PSQLException;

public class WithJdbc {
    record Sale(BigDecimal newQuantity, boolean replayed) {}

    static final AtomicInteger attempts = new AtomicInteger();
    static final SortedSet<BigDecimal> left = new TreeSet<>();
    static final List<BigDecimal> refused = new ArrayList<>();
    static int replayed;

    // docs:begin
    static Sale sell(Connection db, UUID item, BigDecimal quantity, String order, String key) throws SQLException {
        String call = """
            SELECT (result ->> 'new_quantity')::numeric, coalesce((result ->> 'replayed')::boolean, false)
              FROM decrement_item(?, ?, p_reference => ?, p_idempotency_key => ?) AS result""";
        try (PreparedStatement statement = db.prepareStatement(call)) {
            statement.setObject(1, item);
            statement.setBigDecimal(2, quantity); // setDouble would be error 42883
            statement.setString(3, order);
            statement.setString(4, key);
            ResultSet rows = statement.executeQuery();
            rows.next();
            return new Sale(rows.getBigDecimal(1), rows.getBoolean(2));
        }
    }

    /** The available quantity, if this is the error of a shortage: DETAIL is JSON, which PostgreSQL itself can read. */
    static BigDecimal available(Connection db, SQLException error) throws SQLException {
        if (!"IV001".equals(error.getSQLState())) throw error;
        String detail = ((PSQLException) error).getServerErrorMessage().getDetail();
        try (PreparedStatement read = db.prepareStatement("SELECT (?::json ->> 'available')::numeric")) {
            read.setString(1, detail);
            ResultSet rows = read.executeQuery();
            rows.next();
            return rows.getBigDecimal(1);
        }
    }
    // docs:end

    static void work(String url, UUID item, BigDecimal quantity) throws SQLException {
        try (Connection db = DriverManager.getConnection(url, System.getenv("PGUSER"), null)) {
            for (int number; (number = attempts.getAndIncrement()) < 64; ) {
                String order = "order " + number, key = "key of order " + number;
                try {
                    sell(db, item, quantity, order, key); // this result is thrown away
                    Sale sale = sell(db, item, quantity, order, key);
                    synchronized (left) {
                        left.add(sale.newQuantity());
                        replayed += sale.replayed() ? 1 : 0;
                    }
                } catch (SQLException error) {
                    BigDecimal available = available(db, error);
                    synchronized (left) {
                        refused.add(available);
                    }
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        UUID item = UUID.fromString(arguments[0]);
        BigDecimal quantity = new BigDecimal(arguments[1]);
        String server = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        String url = "jdbc:postgresql://" + server + "/" + System.getenv("PGDATABASE");
        // the driver prepares a named statement after five executions; 0: never, for a pooler in transaction mode
        if (System.getenv("BEHIND_PGBOUNCER") != null) url += "?prepareThreshold=0";
        String pooled = url;
        var threads = Executors.newFixedThreadPool(8);
        List<Future<?>> workers = new ArrayList<>();
        for (int worker = 0; worker < 8; worker++) {
            workers.add(threads.submit(() -> {
                work(pooled, item, quantity);
                return null;
            }));
        }
        threads.shutdown();
        for (Future<?> worker : workers) worker.get();
        String report = "{\"sold\": %d, \"refused\": %d, \"replayed\": %d, \"first\": \"%s\", \"available\": \"%s\"}%n";
        String first = left.last().toPlainString(), available = refused.get(0).toPlainString();
        System.out.printf(report, left.size(), refused.size(), replayed, first, available);
    }
}
