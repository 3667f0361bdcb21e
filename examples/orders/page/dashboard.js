// The dashboard: subscribes first, then asks for the state, and puts both together without a hole.

import { Chart } from "./chart.js";
import { element, figure, money } from "./draw.js";
import { Model } from "./model.js";
import { listen } from "./stream.js";

const CHANNELS = ["reports/orders/**", "ops/**"];
const byId = (id) => document.getElementById(id);
const model = new Model();
const alarms = new Map();
const services = new Map();

const palette = () => [0, 1, 2, 3, 4].map((number) => `var(--c${number})`);
const colour = (name) => palette()[Math.max(model.names().indexOf(name), 0) % 5];
/** A canvas knows no variables: it gets what they come to. */
const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;
const inked = (name) => ((probe.style.color = colour(name)), getComputedStyle(probe).color);

function minute() {
  const since = model.now() - 60;
  return [...model.bars].reduce((sum, [key, amount]) => sum + (Number(key.split(" ")[0]) >= since ? amount : 0), 0);
}

function dot(name) {
  const mark = element("span", "dot");
  mark.style.background = colour(name);
  return mark;
}

function drawTotals() {
  const { regions, count, amount } = model.today();
  figure("amount", amount, (value) => money(value));
  figure("count", count, (value) => Math.round(value).toLocaleString("en"));
  figure("average", count ? amount / count : 0, (value) => money(value));
  figure("minute", minute(), (value) => money(value, 0));
  document.title = `${money(amount, 0)} · Orders`;
  byId("legend").replaceChildren(...model.names().map((name) => element("li", "name", dot(name), name)));
  const most = Math.max(1, ...regions.map((region) => region.amount));
  byId("regions").replaceChildren(...regions.map((region) => {
    const fill = element("i", "");
    fill.style.cssText = `width: ${(region.amount / most) * 100}%; background: ${colour(region.region)}`;
    const orders = `${region.count.toLocaleString("en")} ${region.count === 1 ? "order" : "orders"}`;
    const row = element("div", "row", element("span", "name", region.region), element("span", "quiet", orders), element("span", "sum", money(region.amount)));
    return element("li", "", row, element("div", "bar", fill));
  }));
}

function drawOrders(fresh) {
  byId("orders").replaceChildren(...model.orders.map((order) => {
    const time = new Date(order.time * 1000).toISOString().slice(11, 19);
    const region = element("span", "name quiet", dot(order.region), order.region);
    const row = element("li", order.version === fresh ? "new" : "", element("span", "quiet", time), element("span", "id", order.id), region, element("span", "sum", money(order.amount)));
    row.dataset.id = order.id;
    return row;
  }));
}

function drawServices() {
  byId("services").replaceChildren(...[...services].sort().map(([name, heard]) => {
    const pill = element("li", "pill", name.replace("_", " "));
    const silent = Date.now() - heard > 12_000;
    pill.dataset.state = silent ? "silent" : "live";
    pill.title = silent ? "no heartbeat" : "has a heartbeat";
    return pill;
  }));
}

function drawAlarms() {
  byId("alarms").replaceChildren(...[...alarms].map(([key, { text, over }]) => {
    const button = element("button", "", "Dismiss");
    button.onclick = () => (alarms.delete(key), drawAlarms());
    return element("li", over ? "over" : "", text, button);
  }));
}

const settings = await (await fetch("settings.json")).json();
let pending; // What came since the subscription stands and before the state is here; undefined when it is here.
let turn = 0;

/** Asks for the state and then takes what came meanwhile. A newer call makes this one void. */
async function synchronise() {
  const mine = ++turn;
  pending = [];
  for (let attempt = 0; mine === turn; attempt++) {
    try {
      const answer = await fetch(settings.state, { signal: AbortSignal.timeout(10_000) });
      const state = await answer.json();
      if (mine !== turn) return;
      model.replace(state);
      const waiting = pending;
      pending = undefined;
      waiting.forEach(take);
      drawTotals();
      drawOrders();
      return show("live");
    } catch {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * Math.min(10_000, 500 * 2 ** attempt)));
    }
  }
}

function take(message) {
  if (message.kind === "heartbeat") return services.set(message.service, Date.now()), drawServices();
  if (message.kind === "alarm") return alarms.set(message.key, message), drawAlarms();
  if (pending) return pending.length < 1000 ? pending.push(message) : undefined;
  const outcome = model.take(message);
  if (outcome === "hole") synchronise();
  if (outcome !== "news") return;
  drawTotals();
  if (message.kind === "order") drawOrders(message.version);
}

const words = { live: "live", connecting: "connecting", open: "fetching the state", waiting: "reconnecting", refused: "refused" };
function show(state) {
  byId("state").dataset.state = state;
  byId("state").textContent = words[state];
}

let stream;
function start(transport) {
  stream?.close();
  turn++;
  const onState = (state) => (show(state), state === "open" ? synchronise() : turn++);
  stream = listen({ urls: settings.push, channels: CHANNELS, transport, silence: 20_000, onMessage: take, onState });
}

const wanted = new URLSearchParams(location.search).get("transport") === "ws" ? "ws" : "sse";
for (const radio of document.querySelectorAll("[name=transport]")) {
  radio.checked = radio.value === wanted;
  radio.onchange = () => start(radio.value);
}
new Chart(byId("chart"), model, inked, money);
// Time passes without a message, too: the last minute, a new day, a service that has fallen silent.
setInterval(() => (model.version >= 0 && drawTotals(), drawServices()), 1000);
start(wanted);
