// Takes the pictures of examples/orders that the book shows: `node tests/e2e/screenshots.mjs [seconds of orders]`.
// The chart is of five minutes, so that many are waited for unless told otherwise.

import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { Process, ROOT, onFreePort, startChromium } from "./harness.mjs";

const seconds = Number(process.argv[2] ?? 310);
const endings = [];
const t = { after: (end) => endings.unshift(end) };

try {
  const env = { ...process.env, CLARION_BROKER: process.env.CLARION_BROKER ?? join(ROOT, "target/debug/clarion-broker") };
  const page = await onFreePort(async (port) => {
    const command = [join(ROOT, "examples/orders/run"), "--port", `${port}`, "--rate", "3"];
    const shop = new Process(t, "python3", command, { env, detached: true });
    await shop.line("is up", (line) => line.includes("a buyer "));
    return `http://127.0.0.1:${port}`;
  });
  const browser = await startChromium(t);
  const screens = { "": { width: 1180, height: 860 }, "-phone": { width: 390, height: 844 } };
  const pages = await Promise.all(
    Object.entries(screens).map(async ([name, viewport]) => {
      const tab = await (await browser.newContext({ viewport, isMobile: name !== "" })).newPage();
      await tab.goto(page);
      await tab.locator("#state[data-state=live]").waitFor();
      return [name, tab];
    }),
  );
  await wait(seconds * 1000);
  for (const [name, tab] of pages) {
    for (const colorScheme of ["light", "dark"]) {
      await tab.emulateMedia({ colorScheme });
      const path = join(ROOT, "docs/images", `orders${name}-${colorScheme}.png`);
      await tab.screenshot({ path });
      console.log(path);
    }
  }
} finally {
  for (const end of endings) await end();
}
process.exit(0);
