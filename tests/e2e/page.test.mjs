// The page of `GET /` in Chromium: what is published on the bus shows at both of the browser's own doors.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { join } from "node:path";
import { test } from "node:test";
import { connect } from "nats";
import { PATIENCE, SCREENSHOTS, freePort, startBroker, startChromium, startNats, startRedis, within } from "./harness.mjs";

/** Opens the page and waits until both doors are connected. Whatever the page complains of fails the test. */
async function open(t, url, options = {}) {
  const browser = await startChromium(t);
  const context = await browser.newContext({ viewport: { width: 1200, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  await page.goto(url);
  for (const door of ["ws", "sse"]) await page.locator(`#${door}-state[data-state=on]`).waitFor();
  return { page, context, complaints };
}

/** The messages that a door's panel shows. */
const shown = (page, door) => page.locator(`#${door}-log li span`).allTextContents();

/** Waits until both doors show exactly these messages. */
async function bothShow(page, messages) {
  for (const door of ["ws", "sse"]) {
    const last = page.locator(`#${door}-log li`, { hasText: messages.at(-1) });
    await last.first().waitFor();
    assert.deepEqual(await shown(page, door), messages, door);
  }
}

/** What the lines for a shell are for. */
const names = (page) => page.locator("#commands dt").allTextContents();

async function photograph(page, name) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(SCREENSHOTS, `page-${name}-${colorScheme}.png`), fullPage: true });
  }
}

test("what redis-cli publishes shows at both doors", async (t) => {
  const redis = await startRedis(t);
  const node = await startBroker(t, { args: ["--bus", redis.url] });
  const { page, complaints } = await open(t, node.url);

  await redis.cli("PUBLISH", "clarion:news", "from redis-cli");
  await bothShow(page, ["from redis-cli"]);
  await page.fill("#payload", "from the page, größer");
  await page.click("#publish");
  await bothShow(page, ["from redis-cli", "from the page, größer"]);

  // The line that the page gives for Redis does what it says, and none is for another bus.
  assert.deepEqual(await names(page), ["hear", "publish", "redis", "clarion"]);
  const line = await page.locator("#commands dt:text-is('redis') + dd code").textContent();
  assert.equal(line, "redis-cli PUBLISH clarion:news 'from the page, größer'");
  await photograph(page, "redis");
  assert.deepEqual(complaints, []);
});

test("what a NATS client publishes shows at both doors", async (t) => {
  const nats = await startNats(t);
  const node = await startBroker(t, { args: ["--bus", nats.url] });
  const { page, complaints } = await open(t, node.url);

  const client = await within("NATS connects", connect({ servers: nats.url }));
  t.after(() => client.close());
  client.publish("clarion.news", "from nats");
  await client.flush();
  await bothShow(page, ["from nats"]);

  // A pattern hears what is below, once at each door.
  await page.fill("#channel", "orders/**");
  await page.click("#connect");
  for (const door of ["ws", "sse"]) await page.locator(`#${door}-state[data-state=on]`).waitFor();
  for (const channel of ["orders", "orders.eu", "orders.eu.7"]) client.publish(`clarion.${channel}`, channel);
  await client.flush();
  await bothShow(page, ["orders", "orders.eu", "orders.eu.7"]);
  assert.deepEqual(await names(page), ["hear", "publish", "nats", "clarion"]);
  assert.equal(await page.locator("#commands dt:text-is('nats') + dd code").textContent(), "nats pub clarion.news hello");
  await photograph(page, "nats");
  assert.deepEqual(complaints, []);
});

test("the page comes back by itself after the node's restart", async (t) => {
  const listen = `127.0.0.1:${await freePort()}`;
  const node = await startBroker(t, { listen });
  const { page } = await open(t, node.url);
  await node.process.kill();
  for (const door of ["ws", "sse"]) await page.locator(`#${door}-state[data-state=bad]`).waitFor();
  await startBroker(t, { listen });
  for (const door of ["ws", "sse"]) await page.locator(`#${door}-state[data-state=on]`).waitFor();
  await page.click("#publish");
  await bothShow(page, ["hello"]);
});

test("user 42 hears /me with a token of development, and the page says why others do not", async (t) => {
  const node = await startBroker(t);
  const { page } = await open(t, node.url);
  await page.fill("#channel", "users/42");
  await page.click("#connect");
  await page.locator("#sse-state", { hasText: "refused: 40" }).waitFor();

  await page.fill("#channel", "me");
  await page.fill("#token", developmentToken("42"));
  await page.click("#connect");
  for (const door of ["ws", "sse"]) await page.locator(`#${door}-state[data-state=on]`).waitFor();
  const post = (path, body) => fetch(node.url + path, { method: "POST", body, headers: { "content-type": "text/plain" } });
  assert.equal((await post("/users/42", "for 42")).status, 200);
  assert.equal((await post("/broadcast", "for all")).status, 200);
  await bothShow(page, ["for 42", "for all"]);
});

test("the page leads to the reference, whose examples are of this node", async (t) => {
  const node = await startBroker(t);
  const { page, complaints } = await open(t, node.url);
  assert.deepEqual(await names(page), ["hear", "publish", "clarion"]);
  await page.locator("#bus-hint").waitFor();
  await page.click("header a[href='/docs']");
  await page.locator("h2", { hasText: "Doors" }).waitFor();
  assert.match(await page.locator("pre code").first().textContent(), new RegExp(`curl -d 'data=hello' ${node.url}/news`));
  assert.deepEqual(complaints, []);
});

test("the page fits a phone, and its lines can be copied", async (t) => {
  const node = await startBroker(t);
  const phone = { viewport: { width: 360, height: 740 }, permissions: ["clipboard-read", "clipboard-write"] };
  const { page } = await open(t, node.url, phone);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wider <= 0, `the page is ${wider} px wider than the phone`);
  await page.locator("#commands .copy").nth(1).click();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied, `curl -d data=hello ${node.url}/news`);
  await photograph(page, "phone");
});

/** A token that only development mode takes: HS256 with the secret that everybody knows. */
function developmentToken(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp })}`;
  return `${signed}.${createHmac("sha256", "development").update(signed).digest("base64url")}`;
}
