// The Django application of examples/sync in Chromium: what is saved anywhere is in every open page, and nothing else.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { PATIENCE, Process, ROOT, SCREENSHOTS, eventually, freePort, onFreePort, startBroker, startChromium, startNats, startRedis } from "./harness.mjs";

/** The application on a bus, with a node of ours that can be killed: `url`, and `api(…)`. */
function startTasks(t, bus, push, more = {}) {
  return onFreePort(async (port) => {
    const env = { ...process.env, PORT: `${port}`, PUSH_URL: push, ...more };
    const app = new Process(t, join(ROOT, "examples/sync/run"), [bus], { env, detached: true });
    await app.line("is up", (line) => line.includes("the tasks:"));
    const url = `http://127.0.0.1:${port}/`;
    await eventually("the page is served", async () => (await fetch(url)).ok);
    const api = async (method, path, body) => {
      const answer = await fetch(`${url}api/tasks${path}`, { method, body: JSON.stringify(body) });
      return { status: answer.status, body: answer.headers.get("content-type") === "application/json" ? await answer.json() : undefined };
    };
    return { url, api, app };
  });
}

/** Opens the page and waits until it is live; whatever it throws is in `complaints`. */
async function open(browser, url, complaints) {
  const page = await (await browser.newContext({ viewport: { width: 1100, height: 640 } })).newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
  await page.locator("#state[data-state=live]").waitFor();
  await page.evaluate(() => (window.loaded = "once"));
  return page;
}

const row = (page, title) => page.locator("#tasks li", { hasText: title });
const titles = (page) => page.locator("#tasks .title").allTextContents();

async function add(page, title) {
  await page.fill("#add input[name=title]", title);
  await page.press("#add input[name=title]", "Enter");
}

for (const [name, start] of [["Redis", startRedis], ["NATS", startNats]]) {
  test(`what is saved in a page or by the API is in every page, on ${name}`, async (t) => {
    const bus = await start(t);
    const broker = await startBroker(t, { args: ["--bus", bus.url, "--prefix", "shop"] });
    const { url, api } = await startTasks(t, bus.url, broker.url);
    const browser = await startChromium(t);
    const complaints = [];
    const [ada, bob] = [await open(browser, url, complaints), await open(browser, url, complaints)];

    await add(ada, "paint the <b>fence</b>");
    await row(bob, "paint the <b>fence</b>").waitFor();
    await row(ada, "paint the <b>fence</b>").waitFor();
    await eventually("the form is empty again", async () => (await ada.inputValue("#add input[name=title]")) === "");

    const { status, body } = await api("POST", "", { title: "call the printer" });
    assert.equal(status, 201);
    for (const page of [ada, bob]) await row(page, "call the printer").waitFor();

    await row(bob, "fence").getByLabel("Done").click();
    await ada.locator("#tasks li[data-done=true]", { hasText: "fence" }).waitFor();
    await api("PATCH", `/${body.id}`, { title: "call the other printer" });
    await row(ada, "call the other printer").waitFor();
    assert.deepEqual(await titles(ada), ["paint the <b>fence</b>", "call the other printer"]);

    // All or nothing: the third is no good, so the first two are taken back and nobody hears of them.
    const refused = await api("POST", "", [{ title: "rolled back" }, { title: "this too" }, { title: "" }]);
    assert.equal(refused.status, 400);
    await api("POST", "", { title: "after it" });
    for (const page of [ada, bob]) {
      await row(page, "after it").waitFor();
      assert.deepEqual(await titles(page), ["paint the <b>fence</b>", "call the other printer", "after it"]);
    }

    const late = await open(browser, url, complaints);
    assert.deepEqual(await titles(late), ["paint the <b>fence</b>", "call the other printer", "after it"]);
    assert.equal(await late.textContent("#count"), "1 of 3 done");

    await row(late, "fence").getByLabel("Delete").click();
    await api("DELETE", `/${body.id}`);
    for (const page of [ada, bob, late]) {
      await eventually("the deleted rows are gone", async () => (await titles(page)).join() === "after it");
      assert.equal(await page.evaluate(() => window.loaded), "once", "no page was loaded again");
    }
    assert.deepEqual(complaints, []);
  });
}

test("a page that was cut off catches up, and a bus that is away fails no save", async (t) => {
  const redis = await startRedis(t);
  const listen = `127.0.0.1:${await freePort()}`;
  const node = () => startBroker(t, { listen, args: ["--bus", redis.url, "--prefix", "shop"] });
  const broker = await node();
  const database = join(mkdtempSync(join(tmpdir(), "clarion-e2e-")), "tasks.sqlite3");
  t.after(() => rmSync(dirname(database), { recursive: true, force: true }));
  const { url, api, app } = await startTasks(t, redis.url, broker.url, { DATABASE: database });
  const browser = await startChromium(t);
  const complaints = [];
  const page = await open(browser, url, complaints);
  await api("POST", "", { title: "before" });
  await row(page, "before").waitFor();

  await broker.process.kill();
  await page.locator("#state[data-state=waiting]").waitFor();
  await api("POST", "", { title: "while the node was away" });
  await node();
  await row(page, "while the node was away").waitFor();

  // A change that the bus lost, since its client hung up in that moment: the next number tells, and the state is asked for.
  const lost = redis.url.replace(/:(\d+)$/, ":1");
  const deaf = await startTasks(t, lost, broker.url, { DATABASE: database });
  assert.equal((await deaf.api("POST", "", { title: "told to nobody" })).status, 201);
  await api("POST", "", { title: "the next one" });
  await row(page, "the next one").waitFor();
  assert.deepEqual(await titles(page), ["before", "while the node was away", "told to nobody", "the next one"]);

  await redis.server.kill();
  const kept = await api("POST", "", { title: "without a bus" });
  assert.equal(kept.status, 201, app.lines.join("\n"));
  assert.deepEqual((await api("GET", "")).body.tasks.map(({ title }) => title).slice(-2), ["the next one", "without a bus"]);
  assert.deepEqual(complaints, []);
});

test("the page looks right, light and dark, wide and narrow", async (t) => {
  const redis = await startRedis(t);
  const broker = await startBroker(t, { args: ["--bus", redis.url, "--prefix", "shop"] });
  const { url, api } = await startTasks(t, redis.url, broker.url);
  await api("POST", "", [
    { title: "Call the printer about the posters", done: true },
    { title: "Paint the fence behind the workshop" },
    { title: "Order forty chairs, and ask whether they come stacked" },
    { title: "Write to everybody who was at the last meeting", done: true },
  ]);
  const page = await open(await startChromium(t), url, []);
  for (const [kind, width, height] of [["", 1100, 560], ["-phone", 390, 700]]) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: join(SCREENSHOTS, `sync-${colorScheme}${kind}.png`) });
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    assert.ok(wide, `nothing sticks out at ${width} pixels`);
  }
});
