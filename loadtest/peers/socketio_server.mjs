// A push server on Socket.IO, as people write it: a client says its room with the handshake, a message is posted to the room.
// With a Redis, through the adapter that joins several such servers.
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const [port, bus] = process.argv.slice(2);

const server = createServer();
const io = new Server(server, { transports: ['websocket'], perMessageDeflate: false, serveClient: false });
if (bus) {
  const { createClient } = await import('redis');
  const { createAdapter } = await import('@socket.io/redis-adapter');
  const client = createClient({ url: `redis://${bus}` });
  io.adapter(createAdapter(await client.connect(), await client.duplicate().connect()));
}

io.on('connection', async (socket) => {
  await socket.join(socket.handshake.query.room);
  socket.emit('joined');
});

server.on('request', (request, response) => {
  if (request.method !== 'POST') return;
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    io.to(request.url.slice(1)).emit('message', Buffer.concat(pieces).toString());
    response.writeHead(200, { 'Content-Length': 2 }).end('{}');
  });
});

server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
