// npm install ws        (Node 22 and newer have a WebSocket of their own)
import WebSocket from "ws";

let attempt = 0;

function connect() {
  const socket = new WebSocket(process.env.CLARION_URL.replace("http", "ws") + "/news"); // http://127.0.0.1:8000
  socket.on("message", (data) => {
    attempt = 0;
    console.log(String(data));
  });
  socket.on("error", (error) => console.error(error.message)); // `close` follows
  socket.on("close", (code) => {
    if ([1000, 1002, 1007, 1009].includes(code) || (code >= 3500 && code < 5000)) return; // for good
    setTimeout(connect, Math.random() * Math.min(30_000, 500 * 2 ** attempt++));
  });
}

connect();
