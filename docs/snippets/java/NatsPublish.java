// io.nats:jnats
import static java.nio.charset.StandardCharsets.UTF_8;

import io.nats.client.Nats;
import java.time.Duration;

class NatsPublish {
    public static void main(String[] arguments) throws Exception {
        try (var nats = Nats.connect(System.getenv("NATS_URL"))) { // nats://127.0.0.1:4222
            nats.publish("clarion.orders.eu", "{\"id\":7,\"amount\":\"12.50\"}".getBytes(UTF_8));
            nats.flush(Duration.ofSeconds(5)); // publishing only writes to a buffer
        }
    }
}
