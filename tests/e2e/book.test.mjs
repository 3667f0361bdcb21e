// The pages that the book offers for copying, in Chromium: they show what is published, also after their node died.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { test } from "node:test";
import { PATIENCE, ROOT, eventually, freePort, startBroker, startChromium } from "./harness.mjs";

const DOORS = join(ROOT, "docs", "snippets", "doors");
const KINDS = { ".html": "text/html", ".js": "text/javascript" };

/** Serves the pages, with the address that they print exchanged for that of the node. */
async function serve(t, node) {
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const kind = KINDS[extname(path)];
    if (!kind) return response.writeHead(404).end();
    const text = readFileSync(join(DOORS, path.slice(1)), "utf8");
    assert.ok(kind === "text/javascript" || text.includes("127.0.0.1:8000"));
    response.writeHead(200, { "Content-Type": kind }).end(text.replaceAll("127.0.0.1:8000", new URL(node.url).host));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.close(), server.closeAllConnections()));
  return `http://127.0.0.1:${server.address().port}`;
}

const publish = (node, channel, body, headers = {}) =>
  fetch(`${node.url}/${channel}`, { method: "POST", body, headers: { "Content-Type": "application/json", ...headers } });

/** Publishes again and again until the page shows it: nothing else tells a test that the page is subscribed. */
const shows = (page, node, channel, body, text) =>
  eventually(`the page shows ${text}`, async () => {
    assert.equal((await publish(node, channel, body)).status, 200);
    return (await page.locator("#news li").allTextContents()).includes(text);
  });

for (const [name, channel, body, text, comesBack] of [
  ["websocket.html", "news", "hello", "hello", true],
  ["event_source.html", "news", "hello", "hello", true],
  ["events.html", "orders/eu/7", '{"amount":"12.50"}', 'orders/eu/7: {"amount":"12.50"}', false],
]) {
  test(`${name} shows what is published`, async (t) => {
    const listen = `127.0.0.1:${await freePort()}`;
    const node = await startBroker(t, { listen });
    const page = await (await startChromium(t)).newPage();
    page.setDefaultTimeout(PATIENCE);
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(`${await serve(t, node)}/${name}`);
    await shows(page, node, channel, body, text);
    if (comesBack) {
      await node.process.kill();
      const next = await startBroker(t, { listen });
      await shows(page, next, channel, "again", "again");
    }
    assert.deepEqual(complaints, []);
  });
}

test("me.js hears what is pushed to its user", async (t) => {
  const node = await startBroker(t);
  const page = await (await startChromium(t)).newPage();
  await page.goto(`${await serve(t, node)}/websocket.html`);
  // Signed with the secret of development mode, as `clarion token --user 42` does.
  const { createHmac } = await import("node:crypto");
  const signed = ['{"alg":"HS256"}', '{"sub":"42"}'].map((part) => Buffer.from(part).toString("base64url")).join(".");
  const token = `${signed}.${createHmac("sha256", "development").update(signed).digest("base64url")}`;
  await page.evaluate(
    async ([url, token]) => {
      const { listenToMine } = await import("/me.js");
      window.heard = [];
      const socket = listenToMine(url, token, (text) => window.heard.push(text));
      await new Promise((resolve, reject) => ((socket.onopen = resolve), (socket.onclose = reject)));
    },
    [node.url.replace("http", "ws"), token],
  );
  await publish(node, "users/42", "paid");
  await publish(node, "users/43", "not for you");
  await publish(node, "broadcast", "for all");
  await eventually("both have come", async () => (await page.evaluate(() => window.heard.length)) === 2);
  assert.deepEqual(await page.evaluate(() => window.heard), ["paid", "for all"]);
});
