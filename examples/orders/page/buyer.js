// A buyer's phone: pays, and gets the shop's text messages on the channel that only this buyer may hear.

import { listen } from "./stream.js";

const byId = (id) => document.getElementById(id);
const user = new URLSearchParams(location.search).get("user") ?? `${100 + Math.floor(Math.random() * 900)}`;
const settings = await (await fetch("settings.json")).json();
const { token } = await (await fetch(`login?user=${encodeURIComponent(user)}`)).json();
byId("who").textContent = user;

function add(text, className) {
  const line = document.createElement("li");
  line.className = className;
  line.textContent = text;
  byId("texts").append(line);
}

byId("pay").onsubmit = async (event) => {
  event.preventDefault();
  const amount = byId("amount").value;
  const order = new URLSearchParams({ id: `${user}-${Date.now().toString(36)}`, amount, region: "europe", buyer: user });
  add(`I pay ${amount}`, "mine");
  try {
    const answer = await fetch(`${settings.payments}/order_center/order/alipay/callback?${order}`);
    if (!answer.ok) add(`Not paid: ${await answer.text()}`, "");
  } catch {
    add("Not paid: the shop does not answer.", "");
  }
};

listen({
  urls: settings.push,
  channels: [`users/${user}`],
  transport: "sse",
  token,
  onMessage: (message) => add(message.text, ""),
  onState: (state) => {
    const shown = state === "open" ? "live" : state;
    byId("state").dataset.state = shown;
    byId("state").textContent = shown;
  },
});
