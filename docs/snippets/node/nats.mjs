// npm install nats
import { connect } from "nats";

const client = await connect({ servers: process.env.NATS_URL }); // nats://127.0.0.1:4222
client.publish("clarion.orders.eu", JSON.stringify({ id: 7, amount: "12.50" }));
await client.drain(); // publishing only writes to a buffer
