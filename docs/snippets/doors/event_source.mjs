// npm install eventsource
import { EventSource } from "eventsource";

// This EventSource, unlike a browser's, can send headers.
const token = process.env.CLARION_TOKEN;
const authorization = token ? { Authorization: `Bearer ${token}` } : {};
const events = new EventSource(process.env.CLARION_URL + "/news", { // http://127.0.0.1:8000
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...authorization } }),
});
events.onmessage = ({ data }) => console.log(data);
events.onerror = ({ code }) => {
  if (events.readyState === EventSource.CLOSED) console.error(`refused for good: ${code}`);
};
