// The order dashboard on the three-node cluster of deploy/local, in Chromium.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { open, shows } from "./dashboard.mjs";
import { ROOT, eventually, run, startChromium } from "./harness.mjs";

const LOCAL = join(ROOT, "deploy/local");
const BROKER = process.env.CLARION_BROKER ?? join(ROOT, "target/debug/clarion-broker");
const ORDERS = 20;

/** Why there can be no namespaces here; nothing when there can. */
function impossible() {
  if (process.getuid() !== 0) return "network namespaces need root";
  const name = `clarion-probe-${process.pid}`;
  const made = spawnSync("ip", ["netns", "add", name]);
  spawnSync("ip", ["netns", "delete", name]);
  return made.status === 0 ? false : `this machine gives no network namespaces: ${made.stderr}`;
}

/** The cluster with the example on it. `local(…)` runs a command of deploy/local. */
async function startCluster(t, bus) {
  const name = `e${process.pid}x${bus[0]}`;
  const local = (command, ...args) => run(LOCAL, [command, "--name", name, ...args]);
  t.after(() => local("down"));
  await local("up", "--bus", bus, "--broker", BROKER, "--example", "orders", "--rate", "0", "-e", "CLARION_DRAIN_WAIT=3s");
  const status = async () => JSON.parse(await local("status", "--json"));
  const { dashboard } = await status();
  const { payments } = await (await fetch(`${dashboard}settings.json`)).json();
  const pay = async (id, amount) => {
    const query = new URLSearchParams({ id, amount, region: "asia", buyer: "7" });
    assert.equal((await fetch(`${payments}/order_center/order/alipay/callback?${query}`)).status, 200);
  };
  return { local, status, dashboard, pay };
}

for (const [bus, transport] of [["redis", ""], ["nats", "?transport=ws"]]) {
  test(`the dashboard on the local cluster with ${bus} moves at once and survives its node`, { skip: impossible() }, async (t) => {
    const { local, status, dashboard, pay } = await startCluster(t, bus);
    const browser = await startChromium(t);
    const { page, complaints } = await open(browser, dashboard + transport);

    const took = [];
    for (let order = 1; order <= ORDERS; order++) {
      const begun = performance.now();
      await pay(`${order}`, "1.00");
      await shows(page, "count", `${order}`);
      took.push(performance.now() - begun);
    }
    took.sort((a, b) => a - b);
    const [median, slowest] = [took[ORDERS / 2], took[ORDERS - 1]].map(Math.round);
    t.diagnostic(`${bus}: the page moved ${median} ms after the call-back began (median of ${ORDERS}, slowest ${slowest} ms)`);
    assert.ok(median < 5000, "the page moves when an order is paid, not when it looks for itself");

    // The page's node dies and stays dead. What is paid meanwhile is there when the page has come back, without a reload.
    const { node } = (await status()).nodes.find((node) => node.connections > 0);
    const killed = performance.now();
    await local("kill", node);
    await page.waitForFunction(() => window.states.includes("waiting"));
    await pay("late", "80.00");
    await page.waitForFunction(() => window.states.lastIndexOf("live") > window.states.indexOf("waiting"));
    await shows(page, "amount", `¥${ORDERS + 80}.00`);
    t.diagnostic(`${bus}: the page was live again and complete ${Math.round(performance.now() - killed)} ms after ${node} was killed`);
    await eventually("it is at another node", async () => (await status()).nodes.some((one) => one.node !== node && one.connections > 0));

    // The next one leaves in order.
    await local("heal", node);
    await local("roll");
    await pay("rolled", "0.50");
    await shows(page, "amount", `¥${ORDERS + 80}.50`);
    assert.deepEqual(complaints, []);
  });
}
