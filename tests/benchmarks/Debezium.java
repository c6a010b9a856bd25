import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.FileReader;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** java Debezium FILE ROWS: runs the engine with the properties in FILE until it has given ROWS events. */
public class Debezium {
    private static long seen = 0;

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.load(new FileReader(arguments[0]));
        long rows = Long.parseLong(arguments[1]);
        CountDownLatch ended = new CountDownLatch(1);
        DebeziumEngine<ChangeEvent<String, String>> engine =
            DebeziumEngine.create(Json.class)
                .using(settings)
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println(message);
                    }
                    ended.countDown();
                })
                .notifying((events, committer) -> {
                    for (ChangeEvent<String, String> event : events) {
                        seen += event.value() == null ? 0 : 1;
                        committer.markProcessed(event);
                    }
                    committer.markBatchFinished();
                    if (seen >= rows) {
                        ended.countDown();
                    }
                })
                .build();
        ExecutorService runner = Executors.newSingleThreadExecutor();
        runner.execute(engine);
        ended.await();
        System.out.println(seen);
        engine.close();
        runner.shutdown();
        System.exit(seen == rows ? 0 : 1);
    }
}
