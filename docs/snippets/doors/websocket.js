// Hears one channel in a page. Comes back by itself after a random pause that grows.
// Returns a function that ends it.
export function listen(url, onMessage) {
  const FOR_GOOD = [1000, 1002, 1007, 1009]; // and 3500 to 4999: coming back would not help
  let attempt = 0;
  let ended = false;
  let socket;

  function connect() {
    socket = new WebSocket(url);
    let lastSign = Date.now();
    // A page cannot send protocol pings. This finds out that the network has gone away silently.
    const heartbeat = setInterval(() => {
      if (Date.now() - lastSign > 40_000) socket.close(3000);
      else if (socket.readyState === WebSocket.OPEN) socket.send("ping");
    }, 15_000);
    socket.onmessage = ({ data }) => {
      lastSign = Date.now();
      attempt = 0;
      if (data !== "pong") onMessage(data);
    };
    socket.onclose = ({ code }) => {
      clearInterval(heartbeat);
      if (ended || FOR_GOOD.includes(code) || (code >= 3500 && code < 5000)) return;
      setTimeout(connect, Math.random() * Math.min(30_000, 500 * 2 ** attempt++));
    };
  }

  connect();
  return () => {
    ended = true;
    socket.close();
  };
}
