// A push server on `ws`, as people write it: a WebSocket on a path hears what is posted to that path, or what is published
// to `clarion:<path>` on the Redis that is named.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const [port, bus] = process.argv.slice(2);
const subscribers = new Map();

function deliver(channel, message) {
  for (const socket of subscribers.get(channel) ?? []) socket.send(message, { binary: false });
}

let listen = async () => {};
let forget = async () => {};
if (bus) {
  const { createClient } = await import('redis');
  const client = await createClient({ url: `redis://${bus}` }).connect();
  const subject = (channel) => `clarion:${channel}`;
  listen = (channel) => client.subscribe(subject(channel), (message) => deliver(channel, message));
  forget = (channel) => client.unsubscribe(subject(channel));
}

const server = createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    deliver(request.url.slice(1), Buffer.concat(pieces));
    response.writeHead(200, { 'Content-Length': 2 }).end('{}');
  });
});

// What the other servers of a comparison do not have either.
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on('upgrade', async (request, stream, head) => {
  const channel = request.url.slice(1);
  if (!subscribers.has(channel)) {
    subscribers.set(channel, new Set());
    // A subscription that is confirmed stands.
    subscribers.get(channel).ready = listen(channel);
  }
  await subscribers.get(channel).ready;
  sockets.handleUpgrade(request, stream, head, (socket) => {
    const others = subscribers.get(channel);
    others.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => {
      others.delete(socket);
      if (others.size === 0 && subscribers.get(channel) === others) {
        subscribers.delete(channel);
        forget(channel);
      }
    });
  });
});

server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
