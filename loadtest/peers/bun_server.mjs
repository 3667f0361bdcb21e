// A push server on Bun, whose WebSockets and topics are those of uWebSockets, in C++: a WebSocket on a path hears what is
// posted to that path.
const [port] = process.argv.slice(2);

Bun.serve({
  port: Number(port),
  hostname: '127.0.0.1',
  async fetch(request, server) {
    const channel = new URL(request.url).pathname;
    if (request.method === 'POST') {
      server.publish(channel, await request.text());
      return new Response('{}');
    }
    return server.upgrade(request, { data: channel }) ? undefined : new Response('', { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open: (socket) => socket.subscribe(socket.data),
    message() {},
  },
});
