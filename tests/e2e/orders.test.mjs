// The order dashboard of examples/orders in Chromium: it moves because an order was paid, and it survives its node's death.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { open, photograph, shows } from "./dashboard.mjs";
import { Process, ROOT, eventually, onFreePort, startChromium } from "./harness.mjs";

const CALLBACK = "/order_center/order/alipay/callback";

/** The whole example. `port(n)` is a URL of it, `pid(name)` the process of that name that was started last. */
function startShop(t, ...args) {
  return onFreePort(async (first) => {
    const env = { ...process.env, CLARION_BROKER: process.env.CLARION_BROKER ?? join(ROOT, "target/debug/clarion-broker") };
    const command = [join(ROOT, "examples/orders/run"), "--port", `${first}`, "--rate", "0", ...args];
    const shop = new Process(t, "python3", command, { env, detached: true });
    await shop.line("is up", (line) => line.includes("a buyer "));
    const port = (offset) => `http://127.0.0.1:${first + offset}`;
    const pid = (name) => Number(shop.lines.findLast((line) => line.startsWith(`started ${name} `)).match(/pid (\d+)/)[1]);
    const pay = (id, amount, region, buyer = "7") =>
      fetch(`${port(1)}${CALLBACK}?${new URLSearchParams({ id, amount, region, buyer })}`);
    return { port, pid, pay };
  });
}

for (const [bus, ...more] of [["memory"], ["redis", "--nodes", "2"], ["nats"]]) {
  test(`the dashboard on ${bus} moves when an order is paid, and survives its node's death`, async (t) => {
    const shop = await startShop(t, "--bus", bus, ...more);
    const nodes = more.length ? ["node-1", "node-2"] : ["node-1"];
    const browser = await startChromium(t);
    const first = await open(browser, shop.port(0));

    const begun = performance.now();
    assert.equal(await (await shop.pay("1", "12.50", "europe")).text(), "success");
    await shows(first.page, "count", "1");
    t.diagnostic(`the page moved ${Math.round(performance.now() - begun)} ms after the call-back began`);
    await shows(first.page, "amount", "¥12.50");
    await shop.pay("2", "0.29", "asia");
    await first.page.locator("#orders li[data-id='2']").waitFor();

    // Repeated: nothing changes. Contradicted: refused, and the wall says so.
    assert.equal((await shop.pay("1", "12.50", "europe")).status, 200);
    assert.equal((await shop.pay("1", "99.00", "europe")).status, 409);
    await first.page.locator("#alarms li", { hasText: "Order 1 was called back twice, with amount 12.50 and 99.00" }).waitFor();
    await shows(first.page, "amount", "¥12.79");

    // One that comes late, by the other door, shows the present at once.
    const late = await open(browser, `${shop.port(0)}/?transport=ws`, { viewport: { width: 390, height: 844 } });
    await shows(late.page, "amount", "¥12.79");
    assert.equal(await late.page.locator("#orders li").count(), 2);

    // The death of the nodes: what is paid meanwhile is there afterwards, without a reload.
    const before = nodes.map(shop.pid);
    before.forEach((pid) => process.kill(pid, "SIGKILL"));
    for (const { page } of [first, late]) await page.waitForFunction(() => window.states.includes("waiting"));
    assert.equal((await shop.pay("3", "100", "africa")).status, 200);
    await eventually("the nodes are started again", () => nodes.every((name, at) => shop.pid(name) !== before[at]));
    for (const { page } of [first, late]) {
      await page.waitForFunction(() => window.states.lastIndexOf("live") > window.states.indexOf("waiting"));
      await shows(page, "amount", "¥112.79");
      await shows(page, "count", "3");
    }
    await shop.pay("4", "1", "asia");
    for (const { page } of [first, late]) await shows(page, "amount", "¥113.79");
    await first.page.locator("#services .pill", { hasText: "mail" }).waitFor();
    assert.ok(await first.page.evaluate(() => window.states.length > 2), "the page was never loaded again");

    await photograph(first.page, `${bus}-desktop`);
    await photograph(late.page, `${bus}-phone`);
    assert.deepEqual([...first.complaints, ...late.complaints], []);
  });
}

test("a buyer pays and gets the text message, and nobody else does", async (t) => {
  const shop = await startShop(t);
  const browser = await startChromium(t);
  const buyers = await Promise.all(["41", "42"].map((user) => open(browser, `${shop.port(0)}/buyer?user=${user}`)));
  // Text messages are for what is paid from the start of their program on, so that one is awaited.
  const wall = await open(browser, shop.port(0));
  await wall.page.locator("#services .pill", { hasText: "text message" }).waitFor();
  await eventually("the text message of 42", async () => {
    await buyers[1].page.click("text=Pay");
    return buyers[1].page.locator("#texts li:not(.mine)", { hasText: "Your payment of 12.50" }).first().isVisible();
  });
  await photograph(buyers[1].page, "buyer");
  assert.equal(await buyers[0].page.locator("#texts li").count(), 0);
});

test("the page's model drops what is old and notices what is missing", async (t) => {
  const shop = await startShop(t);
  const browser = await startChromium(t);
  const { page } = await open(browser, shop.port(0));
  const outcomes = await page.evaluate(async () => {
    const { Model } = await import("/model.js");
    const model = new Model();
    const now = Date.now() / 1000;
    const report = (version, count) => ({ kind: "report", day: model.day(), region: "asia", count, amount: count * 100, version });
    const order = (version) => ({ kind: "order", version, id: `${version}`, region: "asia", amount: 100, time: now });
    const tick = (version) => ({ kind: "tick", version });
    model.replace({ version: 5, now, bar: 10, bars: [], orders: [], reports: [report(5, 5)] });
    const messages = [report(4, 4), order(5), report(6, 6), order(6), tick(6), order(8), tick(7), tick(2), tick(2), tick(2)];
    return [...messages.map((message) => model.take(message)), model.today().count];
  });
  assert.deepEqual(outcomes, ["old", "old", "news", "news", "old", "hole", "hole", "old", "old", "hole", 6]);
});
