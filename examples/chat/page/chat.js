// A chat without a server of its own: a room is the channel `chat/<room>`, and who opens it hears and speaks there.
//
// Who is here is known from what everybody says of himself: "here" at the start and every few seconds, "left" at the end.
// A bus keeps nothing, so whoever hears a newcomer answers with "here"; who has been silent for a while has left.

const EVERY = 5_000;
const SILENT = 16_000;
const byId = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const room = decodeURIComponent(location.hash.slice(1)) || "lobby";
const me = { id: crypto.randomUUID(), name: query.get("name") || `guest ${Math.floor(100 + Math.random() * 900)}` };
const node = query.get("node") || `${location.hostname}:${Number(location.port) + 1}`;
const people = new Map(); // By id: the name, and when it was heard last.
let socket;
let attempt = 0;

function line(className, text, name) {
  const item = document.createElement("li");
  item.className = className;
  if (name) item.append(Object.assign(document.createElement("b"), { textContent: name }));
  item.append(text);
  byId("log").append(item);
  while (byId("log").children.length > 500) byId("log").firstChild.remove();
  item.scrollIntoView({ block: "end" });
}

function drawPeople() {
  const names = [...people.values()].map(({ name }) => name).sort();
  byId("people").replaceChildren(...names.map((name) => Object.assign(document.createElement("li"), { textContent: name })));
}

const say = (kind, more) => {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify({ kind, ...me, ...more }));
  return true;
};

function left(id) {
  if (people.has(id)) line("event", `${people.get(id).name} left`);
  people.delete(id);
  drawPeople();
}

function hear({ kind, id, name, text }) {
  if (typeof id !== "string" || typeof name !== "string") return;
  if (kind === "left") return left(id);
  const known = people.has(id);
  people.set(id, { name: name.slice(0, 40), heard: Date.now() });
  if (!known) {
    line("event", id === me.id ? `You joined as ${name}` : `${name} is here`);
    drawPeople();
    // After a random pause, so that a newcomer in a full room is not answered by all in the same moment.
    if (id !== me.id) setTimeout(() => say("here"), Math.random() * 500);
  }
  if (kind === "text") line(id === me.id ? "mine" : "", String(text), id === me.id ? undefined : name);
}

function connect() {
  socket = new WebSocket(`ws://${node}/chat/${encodeURIComponent(room)}`);
  socket.onopen = () => {
    attempt = 0;
    byId("state").textContent = "live";
    say("here");
  };
  socket.onmessage = ({ data }) => {
    try {
      hear(JSON.parse(data));
    } catch {
      // Anybody may speak here, also in words that are none of ours.
    }
  };
  socket.onclose = ({ code }) => {
    const stays = code >= 3500 && code < 5000;
    byId("state").textContent = stays ? "refused" : "reconnecting";
    if (!stays) setTimeout(connect, Math.random() * Math.min(10_000, 500 * 2 ** attempt++));
  };
}

byId("room").textContent = `# ${room}`;
byId("say").onsubmit = (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  // What could not be said stays in the field.
  if (text && say("text", { text })) byId("text").value = "";
};
setInterval(() => {
  say("here");
  if (socket.readyState !== WebSocket.OPEN) return;
  for (const [id, { heard }] of people) if (id !== me.id && Date.now() - heard > SILENT) left(id);
}, EVERY);
addEventListener("pagehide", () => say("left"));
addEventListener("hashchange", () => location.reload());
connect();
