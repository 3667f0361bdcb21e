// A push server on `ws`, as people write it: a WebSocket on a path hears what is posted to that path.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const subscribers = new Map();

const server = createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const message = Buffer.concat(pieces);
    for (const socket of subscribers.get(request.url) ?? []) socket.send(message, { binary: false });
    response.writeHead(200, { 'Content-Length': 2 }).end('{}');
  });
});

// What the other servers of a comparison do not have either.
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on('connection', (socket, request) => {
  const channel = request.url;
  if (!subscribers.has(channel)) subscribers.set(channel, new Set());
  subscribers.get(channel).add(socket);
  socket.on('close', () => subscribers.get(channel).delete(socket));
  socket.on('error', () => {});
});

server.listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 });
