// npm install ws        (Node 22 and newer have a WebSocket of their own)
import WebSocket from "ws";

let attempt = 0;

function connect() {
  const url = process.env.CLARION_URL.replace("http", "ws"); // http://127.0.0.1:8000
  const socket = new WebSocket(`${url}/news`);
  socket.on("message", (data) => {
    attempt = 0;
    console.log(String(data));
  });
  socket.on("error", (error) => console.error(error.message)); // `close` follows
  socket.on("close", (code) => {
    const forGood = [1000, 1002, 1007, 1009].includes(code) || (code >= 3500 && code < 5000);
    if (forGood) return;
    setTimeout(connect, Math.random() * Math.min(30_000, 500 * 2 ** attempt++));
  });
}

connect();
