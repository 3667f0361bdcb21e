// What the tests do with the pages of examples/orders.

import assert from "node:assert/strict";
import { join } from "node:path";
import { PATIENCE, SCREENSHOTS } from "./harness.mjs";

/** Opens a page that remembers all states it was in; whatever it throws fails the test in `complaints`. */
export async function open(browser, url, options = {}) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })).newPage();
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
  await page.evaluate(() => {
    const state = document.getElementById("state");
    window.states = [state.dataset.state];
    new MutationObserver(() => window.states.push(state.dataset.state)).observe(state, { attributes: true });
  });
  await page.locator("#state[data-state=live]").waitFor();
  return { page, complaints };
}

/** Waits until an element has this text. */
export const shows = (page, id, text) => page.locator(`#${id}`, { hasText: new RegExp(`^${text.replace(/[.]/g, "\\.")}$`) }).waitFor();

/** Takes its picture, light and dark, and sees that it fits its window. */
export async function photograph(page, name) {
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wider <= 0, `${name} is ${wider} px wider than its window`);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(SCREENSHOTS, `orders-${name}-${colorScheme}.png`), fullPage: true });
  }
}
