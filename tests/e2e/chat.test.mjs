// The chat of examples/chat in Chromium: two people in a room hear each other, and see who comes and goes.

import { join } from "node:path";
import { test } from "node:test";
import { PATIENCE, Process, ROOT, SCREENSHOTS, eventually, onFreePort, startChromium } from "./harness.mjs";

test("two people meet in a room, talk, and one leaves", async (t) => {
  const url = await onFreePort(async (port) => {
    const CLARION_BROKER = process.env.CLARION_BROKER ?? join(ROOT, "target/debug/clarion-broker");
    const env = { ...process.env, CLARION_BROKER, PORT: `${port}` };
    const chat = new Process(t, join(ROOT, "examples/chat/run"), [], { env, detached: true });
    await chat.line("listens", (line) => line.includes("A page to try it"));
    const url = `http://127.0.0.1:${port}/`;
    await eventually("the page is served", async () => (await fetch(url)).ok);
    return url;
  });
  const browser = await startChromium(t);
  const enter = async (name, room) => {
    const page = await (await browser.newContext({ viewport: { width: 390, height: 700 } })).newPage();
    page.setDefaultTimeout(PATIENCE);
    await page.goto(`${url}?name=${name}#${room}`);
    await page.locator("#people li", { hasText: name }).waitFor();
    return page;
  };
  const ada = await enter("Ada", "lobby");
  const elsewhere = await enter("Eve", "garden");
  const bob = await enter("Bob", "lobby");
  // Each learns of the other, though the one who was there first said so before the other came.
  await ada.locator("#people li", { hasText: "Bob" }).waitFor();
  await bob.locator("#people li", { hasText: "Ada" }).waitFor();

  await ada.fill("#text", "hello <b>Bob</b>");
  await ada.press("#text", "Enter");
  await bob.locator("#log li", { hasText: "hello <b>Bob</b>" }).waitFor();
  await ada.locator("#log li.mine", { hasText: "hello" }).waitFor();
  for (const colorScheme of ["light", "dark"]) {
    await bob.emulateMedia({ colorScheme });
    await bob.screenshot({ path: join(SCREENSHOTS, `chat-${colorScheme}.png`) });
  }
  await bob.close();
  await ada.locator("#log li.event", { hasText: "Bob left" }).waitFor();
  await eventually("only Ada is there", async () => (await ada.locator("#people li").count()) === 1);
  if ((await elsewhere.locator("#log li:not(.event)").count()) !== 0) throw new Error("another room heard it");
});
