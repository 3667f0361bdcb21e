// Shows what arrives on one channel by both of the browser's own doors, publishes, and says how a shell does the same.
"use strict";

const find = (id) => document.getElementById(id);
const { prefix, bus } = document.documentElement.dataset;

/** Lines kept in each log: enough to look back, few enough to stay fast. */
const LINES = 200;

/** A channel or pattern as the path of a URL; `*` stays what it is. */
const path = (channel) => "/" + channel.split("/").map(encodeURIComponent).join("/");

/** A word for a POSIX shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** A channel as NATS tokens: what a token cannot hold is percent-encoded. */
function subject(channel) {
  const byte = (b) => {
    const c = String.fromCharCode(b);
    return b > 0x20 && b < 0x7f && !".*>%".includes(c) ? c : "%" + b.toString(16).toUpperCase().padStart(2, "0");
  };
  const token = (segment) => Array.from(new TextEncoder().encode(segment), byte).join("");
  return [prefix, ...channel.split("/").map(token)].join(".");
}

function isJson(text) {
  if (!/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** One of the two doors as the page shows it. */
class Panel {
  constructor(name) {
    this.state = find(`${name}-state`);
    this.address = find(`${name}-address`);
    this.log = find(`${name}-log`);
  }

  begin(address) {
    this.address.textContent = address;
    this.log.replaceChildren();
    this.say("wait", "connecting …");
  }

  say(state, text) {
    this.state.dataset.state = state;
    this.state.textContent = text;
  }

  show(text) {
    const item = document.createElement("li");
    const time = document.createElement("time");
    const data = document.createElement("span");
    time.textContent = new Date().toLocaleTimeString([], { hour12: false });
    data.textContent = text;
    item.append(time, data);
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    this.log.append(item);
    while (this.log.childElementCount > LINES) this.log.firstElementChild.remove();
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}

const panels = { ws: new Panel("ws"), sse: new Panel("sse") };

/** What is open now; replaced as a whole, so that late events of an old connection find nobody. */
let current = { close() {} };

function target() {
  const channel = find("channel").value.trim().replace(/^\/+/, "");
  const token = find("token").value.trim();
  return { channel, query: token && `?token=${encodeURIComponent(token)}` };
}

function listen() {
  current.close();
  const { channel, query } = target();
  const at = path(channel);
  const shown = at + (query && "?token=…");
  const connection = { open: true };
  panels.ws.begin(`new WebSocket("${location.origin.replace("http", "ws")}${shown}")`);
  panels.sse.begin(`new EventSource("${location.origin}${shown}")`);
  openWebSocket(connection, at + query, 0);
  openEvents(connection, at + query);
  connection.close = () => {
    connection.open = false;
    connection.ws?.close();
    connection.sse?.close();
  };
  current = connection;
  history.replaceState(null, "", "#" + channel);
  describe();
}

/** 1001, 1006, 1011–1014 and 3000–3499 mean “come back”; after the rest the page waits for a person. */
const comesBack = (code) => code === 1001 || code === 1006 || (code >= 1011 && code <= 1014) || (code >= 3000 && code < 3500);

function openWebSocket(connection, at, failures) {
  const socket = new WebSocket(location.origin.replace("http", "ws") + at);
  connection.ws = socket;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    failures = 0;
    panels.ws.say("on", "connected");
  };
  socket.onmessage = ({ data }) => {
    panels.ws.show(typeof data === "string" ? data : `(${data.byteLength} bytes, binary)`);
  };
  socket.onclose = ({ code, reason }) => {
    if (!connection.open) return;
    panels.ws.say("bad", `closed: ${code}${reason && ` ${reason}`}`);
    if (!comesBack(code)) return;
    const pause = Math.random() * Math.min(1000 * 2 ** failures, 20000) + 300;
    setTimeout(() => connection.open && openWebSocket(connection, at, failures + 1), pause);
  };
}

function openEvents(connection, at) {
  const events = new EventSource(at);
  connection.sse = events;
  events.onopen = () => panels.sse.say("on", "connected");
  events.onmessage = ({ data }) => panels.sse.show(data);
  events.onerror = () => {
    if (!connection.open) return;
    const over = events.readyState === EventSource.CLOSED;
    panels.sse.say("bad", over ? "refused" : "interrupted, coming back …");
    if (over) explain(connection, at);
  };
}

/** Neither door says why it was refused, a plain request does. Trying again is for a person then. */
async function explain(connection, at) {
  const stop = new AbortController();
  const answer = await fetch(at, { headers: { accept: "text/event-stream" }, signal: stop.signal }).catch(() => null);
  if (answer && !answer.ok && connection.open) {
    const { error } = await answer.json();
    connection.close();
    for (const panel of Object.values(panels)) panel.say("bad", `refused: ${answer.status} ${error.message}`);
  }
  stop.abort();
}

async function publish() {
  const channel = find("target").value.trim().replace(/^\/+/, "");
  const payload = find("payload").value;
  const body = isJson(payload) ? payload : new URLSearchParams({ data: payload });
  const headers = isJson(payload) ? { "content-type": "application/json" } : {};
  const outcome = find("outcome");
  try {
    const answer = await fetch(path(channel), { method: "POST", headers, body });
    const told = await answer.json();
    outcome.className = answer.ok ? "quiet good" : "quiet bad";
    outcome.textContent = answer.ok ? `published as ${told.id}` : `${answer.status}: ${told.error.message}`;
  } catch {
    outcome.className = "quiet bad";
    outcome.textContent = "the node cannot be reached";
  }
  describe();
}

/** The lines for what the two forms say. */
function commands() {
  const { channel, query } = target();
  const to = find("target").value.trim().replace(/^\/+/, "");
  const payload = find("payload").value;
  const url = quoted(location.origin + path(to));
  const plain = /^[^&%+\n\r@=]*$/.test(payload);
  const form = isJson(payload)
    ? `curl -H 'content-type: application/json' -d ${quoted(payload)} ${url}`
    : `curl ${plain ? "-d" : "--data-urlencode"} ${quoted("data=" + payload)} ${url}`;
  const via = location.port === "8000" ? "" : ` --via ${quoted(location.origin)}`;
  const hearing = location.origin + path(channel) + (query && "?token=$TOKEN");
  const heard = query ? `"${hearing}"` : quoted(hearing);
  // Only what reaches this node: a client of another bus would publish to nobody.
  const past = {
    redis: [["redis", `redis-cli PUBLISH ${quoted(`${prefix}:${to}`)} ${quoted(payload)}`]],
    nats: [["nats", `nats pub ${quoted(subject(to))} ${quoted(payload)}`]],
  };
  return [
    ["hear", `curl -N -H 'Accept: text/event-stream' ${heard}`],
    ["publish", form],
    ...(past[bus] ?? []),
    ["clarion", `clarion publish ${quoted(to)} ${quoted(payload)}${via}`],
  ];
}

function describe() {
  const rows = commands().map(([name, line]) => {
    const row = document.createElement("div");
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    const code = document.createElement("code");
    const copy = document.createElement("button");
    term.textContent = name;
    code.textContent = line;
    code.tabIndex = 0;
    copy.type = "button";
    copy.className = "copy";
    copy.textContent = "Copy";
    copy.setAttribute("aria-label", `Copy the line for ${name}`);
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(line);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    detail.append(code);
    row.append(term, detail, copy);
    return row;
  });
  find("commands").replaceChildren(...rows);
}

find("listen").addEventListener("submit", (event) => {
  event.preventDefault();
  const { channel } = target();
  if (!channel.endsWith("*") && channel !== "me") find("target").value = channel;
  listen();
});

find("send").addEventListener("submit", (event) => {
  event.preventDefault();
  publish();
});

find("send").addEventListener("input", describe);

find("payload").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("send").requestSubmit();
});

if (location.hash.length > 1) {
  find("channel").value = decodeURIComponent(location.hash.slice(1));
  if (!find("channel").value.endsWith("*")) find("target").value = find("channel").value;
}
find("bus-hint").hidden = bus !== "memory";
listen();
