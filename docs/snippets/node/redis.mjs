// npm install redis
import { createClient } from "redis";

const client = createClient({ url: process.env.REDIS_URL }); // redis://127.0.0.1:6379
await client.connect();
await client.publish("clarion:orders/eu", JSON.stringify({ id: 7, amount: "12.50" }));
await client.close();
