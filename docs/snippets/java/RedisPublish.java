// redis.clients:jedis
import redis.clients.jedis.JedisPooled;

class RedisPublish {
    public static void main(String[] arguments) {
        try (var redis = new JedisPooled(System.getenv("REDIS_URL"))) { // redis://127.0.0.1:6379
            redis.publish("clarion:orders/eu", "{\"id\":7,\"amount\":\"12.50\"}");
        }
    }
}
